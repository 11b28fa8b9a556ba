"""What several agents share: the contract, and everything but the loss of a family of agents."""
