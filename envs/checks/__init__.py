"""Checks of an environment against the contract, behind `bellmax check-env`."""

from bellmax.envs.checks.environment import check_env, describe_spaces

__all__ = ["check_env", "describe_spaces"]
