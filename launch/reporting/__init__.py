"""Metrics, progress, plots, statistics and video."""
