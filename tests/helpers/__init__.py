"""Shared parts of tests: scripted tasks, random batches, reference loops, a loss's contract."""
