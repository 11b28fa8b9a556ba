"""The checks behind `check_env` and `bellmax check-env`."""
