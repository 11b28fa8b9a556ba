"""Devices, processes, the Ray cluster, signals and locks."""
