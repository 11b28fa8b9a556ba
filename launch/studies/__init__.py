"""Studies of finished runs and of many runs."""
