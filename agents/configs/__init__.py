"""Configurations of the agents, one file a family: frozen dataclasses that import no jax."""
