"""Replay: storage of steps and sampling of sequences."""
