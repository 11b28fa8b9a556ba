"""From a configuration to everything that a run needs: agent, environments, replay and runner."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import psutil

from bellmax import UserError
from bellmax.agents import Agent, registry
from bellmax.envs import make_vector_env
from bellmax.launch import replay as replay_lib
from bellmax.launch.config import RunConfig, check_replay, check_rollout
from bellmax.launch.evaluation import Evaluator, make_evaluator
from bellmax.launch.runner import Runner, example_step, make_runner
from bellmax.launch.train_state import TrainState


class Experiment(NamedTuple):
    """What `build` makes of a configuration. Nothing is allocated yet.

    seeds: of the learners. replay_bytes: size of the replay of all seeds together.
    """

    config: RunConfig
    agent: Agent
    runner: Runner
    evaluator: Evaluator
    seeds: list[int]
    replay_bytes: int

    def init(self) -> TrainState:
        """Allocates and initialises the state of all seeds."""
        return self.runner.init(jnp.asarray(self.seeds, jnp.int32))

    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the state."""
        return jax.eval_shape(self.runner.init, jnp.asarray(self.seeds, jnp.int32))

    def evaluate(self, state: TrainState, step: int) -> Any:
        """Episodes of the policies in a state."""
        params = self.agent.actor_params(state.learner)
        seeds = jnp.asarray(self.seeds, jnp.int32)
        return self.evaluator(params, state.env.statistics, seeds, jnp.int32(step))


def build(config: RunConfig, *, episodes: int | None = None) -> Experiment:
    """Wires agent, environments, replay and runner.

    Args:
      config: a resolved configuration.
      episodes: takes the place of config.evaluation_episodes.

    Raises:
      UserError: parts of the configuration do not fit each other.
    """
    env = make_vector_env(config.env)
    _, make_agent = registry.load(config.agent_name)
    agent = make_agent(config.agent, env.spec)
    replay = _make_replay(config, agent)
    runner = make_runner(
        agent,
        env,
        replay,
        rollout_length=config.rollout_length,
        updates_per_rollout=config.updates_per_rollout,
        num_seeds=config.seeds,
    )
    episodes = config.evaluation_episodes if episodes is None else episodes
    evaluation_env = make_vector_env(config.env, num_envs=episodes, evaluation=True)
    evaluator = make_evaluator(agent, evaluation_env, config.evaluation_max_steps)
    one = replay_lib.size_in_bytes(replay, example_step(agent, env)) if replay else 0
    size = one * config.seeds
    seeds = list(range(config.seed, config.seed + config.seeds))
    return Experiment(config, agent, runner, evaluator, seeds, size)


def _make_replay(config: RunConfig, agent: Agent) -> replay_lib.Replay | None:
    """The replay of a configuration; None for an on-policy agent."""
    spec = agent.replay
    if spec.on_policy:
        check_rollout(config, sequence_length=spec.sequence_length, batch_size=spec.batch_size)
        return None
    check_replay(config, sequence_length=spec.sequence_length, batch_size=spec.batch_size)
    try:
        return replay_lib.make_replay(
            capacity=config.replay.capacity,
            num_envs=config.env.num_envs,
            rollout_length=config.rollout_length,
            sequence_length=spec.sequence_length,
            batch_size=spec.batch_size,
            prioritised=config.replay.prioritised,
            priority_exponent=config.replay.priority_exponent,
            importance_exponent=config.replay.importance_exponent,
        )
    except ValueError as error:
        raise UserError(f"replay.capacity: {error}") from error


def check_memory(experiment: Experiment) -> str:
    """A sentence with the size of the replay, before it is allocated.

    Raises:
      UserError: it would take more than replay.memory_fraction of the free memory.
    """
    if experiment.agent.replay.on_policy:
        return "no replay: the agent learns from its rollouts"
    size, fraction = experiment.replay_bytes, experiment.config.replay.memory_fraction
    free, where = _free_memory()
    if size > fraction * free:
        raise UserError(
            f"replay.capacity: replay would take {_amount(size)}, more than {fraction:.0%} "
            f"(replay.memory_fraction) of the {_amount(free)} free on {where}; lower "
            "replay.capacity or seeds"
        )
    return f"replay takes {_amount(size)} of the {_amount(free)} free on {where}"


def _free_memory() -> tuple[int, str]:
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0), device.device_kind
    return psutil.virtual_memory().available, "this machine"


def _amount(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
