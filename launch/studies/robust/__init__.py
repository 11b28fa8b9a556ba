"""Evaluation over ranges of a task's parameters."""
