"""Many trials and seeds of one agent in one program: the agent carries its numbers in its state.

The runner trains S learners at once. Here a learner is a lane, a trial and a seed; its
hyper-parameters are leaves of its state, so that one compilation serves all trials of a side.
"""

import dataclasses
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bellmax.agents import ActInput, Agent, registry
from bellmax.agents.shared.base import LearnerState
from bellmax.envs import make_vector_env
from bellmax.launch.config.run_config import RunConfig
from bellmax.launch.replay.ring import make_replay
from bellmax.launch.runners.device_runner import make_runner
from bellmax.launch.runners.evaluation import make_evaluator

SAVE_SECONDS = 180.0  # between saves of what has been trained


class Lanes(NamedTuple):
    """What was trained. steps: [P]. returns: [lanes, P]. logs: name -> [lanes, P].

    state: the runner's TrainState, leaves [lanes, ...]. agent: reads its numbers from the state.
    diverged: [lanes] bool.
    """

    config: RunConfig
    agent: Agent
    state: Any
    steps: np.ndarray
    returns: np.ndarray
    logs: dict[str, np.ndarray]
    diverged: np.ndarray


def with_numbers(config: RunConfig, spec: Any, names: tuple[str, ...]) -> Agent:
    """The agent of a configuration, but for numbers in its state: `aux` is (own, numbers).

    Args:
      config: of the run.
      spec: the task's.
      names: of the numbers, such as `learning_rate` and `intrinsic.scale`.
    """
    make = registry.load(config.agent_name)[1]
    plain = make(config.agent, spec)

    def of(numbers: Mapping[str, jax.Array]) -> Agent:
        hyper = config.agent
        for name in names:
            hyper = _replaced(hyper, name.split("."), numbers[name])
        return make(hyper, spec)

    def split(state: LearnerState) -> tuple[LearnerState, Any]:
        return state._replace(aux=state.aux[0]), state.aux[1]

    def joined(state: LearnerState, numbers: Any) -> LearnerState:
        return state._replace(aux=(state.aux, numbers))

    def init(key: jax.Array) -> LearnerState:
        return joined(plain.init(key), {name: jnp.zeros(()) for name in names})

    def actor_params(state: LearnerState) -> Any:
        own, numbers = split(state)
        return plain.actor_params(own), numbers

    def act(params: Any, inputs: ActInput, *, evaluate: bool = False) -> Any:
        return of(params[1]).act(params[0], inputs, evaluate=evaluate)

    def learn(state: LearnerState, batch: Any, key: jax.Array) -> Any:
        own, numbers = split(state)
        own, output = of(numbers).learn(own, batch, key)
        return joined(own, numbers), output

    def prepare(state: LearnerState, batch: Any, memory: Any) -> Any:
        own, numbers = split(state)
        made = of(numbers).prepare
        assert made is not None
        own, batch, memory = made(own, batch, memory)
        return joined(own, numbers), batch, memory

    if plain.observe is not None:
        raise ValueError(f"{config.agent_name} observes rollouts, which lanes do not pass on")
    prepares = None if plain.prepare is None else prepare
    return plain._replace(
        init=init, actor_params=actor_params, act=act, learn=learn, prepare=prepares
    )


def train_lanes(
    config: RunConfig, numbers: dict[str, np.ndarray], seeds: list[int], folder: Path
) -> Lanes:
    """Trains a lane for every (trial, seed), trials slowest, evaluating `evaluate_every` steps.

    Args:
      config: of every lane but for its numbers and seed.
      numbers: name -> [trials].
      seeds: of each trial.
      folder: what was trained is saved there now and then, and taken up again.
    """
    trials = len(next(iter(numbers.values())))
    lane_seeds = jnp.asarray(np.tile(seeds, trials), jnp.int32)
    each = {k: jnp.asarray(np.repeat(v, len(seeds)), jnp.float32) for k, v in numbers.items()}
    env = make_vector_env(config.env)
    agent = with_numbers(config, env.spec, tuple(numbers))
    runner = _make_runner(config, agent, env, len(lane_seeds))
    episodes = config.evaluation_episodes
    tests = make_vector_env(config.env, num_envs=episodes, evaluation=True)
    evaluate = make_evaluator(agent, tests, config.evaluation_max_steps)

    state = runner.init(lane_seeds)
    own, _ = state.learner.aux
    state = state._replace(learner=state.learner._replace(aux=(own, each)))
    rows: list[dict[str, Any]] = []
    diverged = np.zeros(len(lane_seeds), bool)
    saved = folder / "lanes.pickle"
    if saved.is_file():
        state, rows, diverged = _restored(saved, state)
    width = config.env.num_envs * config.rollout_length
    warmup = 0 if rows else -(-config.warmup_steps // width)
    at = time.monotonic()
    for number in range(len(rows) + 1, config.steps // config.evaluate_every + 1):
        before = config.evaluate_every * (number - 1) // width
        rollouts = config.evaluate_every * number // width - before
        state, interval = runner.advance(state, np.int32(warmup), np.int32(rollouts - warmup))
        warmup = 0
        bad = ~np.asarray(interval.finite)
        if bad.any():
            diverged |= bad
            state = _revived(state, diverged)
        step = number * config.evaluate_every
        params = agent.actor_params(state.learner)
        found = evaluate(params, state.env.statistics, lane_seeds, jnp.int32(step))
        row = {"step": step, "return": np.asarray(found.episode_return).mean(axis=1)}
        if config.env.coverage:
            row["coverage"] = np.asarray(state.env.visited.sum(axis=-1), np.float64)
        rows.append(row)
        if time.monotonic() - at > SAVE_SECONDS:
            _save(saved, (state, rows, diverged))
            at = time.monotonic()
    saved.unlink(missing_ok=True)
    stacked = {k: np.stack([row[k] for row in rows], axis=-1) for k in rows[0] if k != "step"}
    returns = np.where(diverged[:, None], np.nan, stacked.pop("return"))
    steps = np.array([row["step"] for row in rows])
    return Lanes(config, agent, state, steps, returns, stacked, diverged)


def _make_runner(config: RunConfig, agent: Agent, env: Any, lanes: int) -> Any:
    replay = None
    if not agent.replay.on_policy:
        replay = make_replay(
            capacity=config.replay.capacity,
            num_envs=config.env.num_envs,
            rollout_length=config.rollout_length,
            sequence_length=agent.replay.sequence_length,
            batch_size=agent.replay.batch_size,
        )
    return make_runner(
        agent,
        env,
        replay,
        rollout_length=config.rollout_length,
        updates_per_rollout=config.updates_per_rollout,
        num_seeds=lanes,
    )


def _replaced(hyper: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    inner = _replaced(getattr(hyper, name), rest, value) if rest else value
    return dataclasses.replace(hyper, **{name: inner})


def _revived(state: Any, diverged: np.ndarray) -> Any:
    """Replaces the learners of diverged lanes by a finite one; the other lanes continue."""
    if diverged.all():
        raise ValueError("every lane has diverged: the trials are out of range")
    source = np.where(diverged, int(np.argmin(diverged)), np.arange(len(diverged)))
    learner = state.learner

    def take(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[source], tree)

    parts = {
        name: take(getattr(learner, name)) for name in ("params", "target_params", "opt_state")
    }
    return state._replace(learner=learner._replace(**parts))


def _save(path: Path, what: tuple) -> None:
    """Whole or not at all."""
    state, *rest = what
    leaves = [
        (True, np.asarray(jax.random.key_data(x)))
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        else (False, np.asarray(x))
        for x in jax.tree.leaves(state)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(pickle.dumps((leaves, *rest)))
    os.replace(new, path)


def _restored(path: Path, like: Any) -> tuple:
    leaves, *rest = pickle.loads(path.read_bytes())
    made = [jax.random.wrap_key_data(x) if is_key else jnp.asarray(x) for is_key, x in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), made), *rest
