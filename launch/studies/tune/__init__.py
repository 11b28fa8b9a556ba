"""Search over hyper-parameters with optuna: each trial is a run in a process of its own."""
