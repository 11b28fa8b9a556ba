"""Runs over grids of settings."""
