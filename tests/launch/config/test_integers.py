"""Integers that jax cannot hold are refused by every integer key; defaults that fit small tasks."""

import pytest

from bellmax import UserError
from bellmax.agents import registry
from bellmax.agents.configs.value_based import QRDQNRetraceConfig
from bellmax.launch.config.overrides import flatten
from bellmax.launch.config.run_config import load, to_dict


def integers(agent):
    """The keys of an agent's run that hold an integer, and those that may."""
    values = flatten(to_dict(load(agent)))
    found = [key for key, value in values.items() if type(value) is int]
    return [*found, "env.time_limit", "evaluation_max_steps"]


@pytest.mark.parametrize("agent", registry.names())
def test_every_integer_key_refuses_what_jax_does_not_hold(agent):
    keys = integers(agent)
    assert {"steps", "env.num_envs", "seed", "rollout_length"} <= set(keys)
    for key in keys:
        for value in ("1e10", str(2**31), "9" * 30) if agent == "dqn" else ("1e10",):
            with pytest.raises(UserError) as error:
                load(agent, [f"--{key}={value}"])
            said = str(error.value)
            assert said.startswith(f"{key} must be ") and "\n" not in said, said


@pytest.mark.parametrize("key", ["epsilon_steps", "target_period"])
def test_never_is_the_largest_integer(key):
    config = load("dqn", [f"--agent.{key}={2**31 - 1}"])
    assert getattr(config.agent, key) == 2**31 - 1


def test_quantiles_of_the_defaults_fit_a_small_task_and_those_of_the_paper_are_ataris():
    assert QRDQNRetraceConfig().num_quantiles == 32 == load("qr_dqn_retrace").agent.num_quantiles
    assert load("qr_dqn_retrace/atari").agent.num_quantiles == 201
