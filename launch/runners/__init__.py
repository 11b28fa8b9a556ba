"""The state of training and what advances it: the device runner, the host runner, evaluators."""
