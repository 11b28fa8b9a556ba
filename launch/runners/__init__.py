"""The training state, the device runner, the host runner, and evaluators."""
