"""Wrappers of one JAX environment, and what looks inside them."""
