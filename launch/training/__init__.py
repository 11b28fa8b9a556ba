"""One training run: the experiment, the training loop, checkpoints and policies."""
