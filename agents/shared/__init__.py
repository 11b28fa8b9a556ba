"""Shared code of agents: the contract, and all parts of a family of agents except the loss."""
