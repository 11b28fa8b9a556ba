"""Many copies of one environment as one stream of steps with automatic resets.

Resets happen on the *next* step (dm_env's LAST then FIRST): the final observation of an episode is
in the stream with `is_last`; the step after it ignores the action and starts a new episode.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import Environment, EnvSpec, EnvState, TimeStep
from bellmax.envs.errors import in_a_sentence
from bellmax.envs.packed import PackedArray
from bellmax.envs.statistics import (
    NORMALISED_BOUND,
    RunningStatistics,
    initial_statistics,
    merge_statistics,
    normalise,
)
from bellmax.envs.validation import check_spec
from bellmax.envs.wrappers.coverage import Cell, find_cells
from bellmax.envs.wrappers.frame_stack import stack_frames
from bellmax.envs.wrappers.time_limit import limit_time

Statistics: TypeAlias = RunningStatistics | tuple[()]


class VectorState(NamedTuple):
    """State of a vector environment; every leaf but `statistics` has a leading [N].

    env_state: pytree, the environments' own states.
    is_last: [N] bool, the latest observation is the last of its episode, so the next step resets.
    episode_return: [N] float32, undiscounted and unclipped, of the episode so far.
    episode_length: [N] int32, environment steps of the episode so far.
    statistics: of the raw observations so far; () without normalisation.
    visited: [C] bool, cells of a Countable task that any of the N visited; () without coverage.
    """

    env_state: EnvState
    is_last: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    statistics: Statistics
    visited: Any = ()


class VectorTimeStep(NamedTuple):
    """Result of one step of the N environments.

    observation: [N, ...] o_t, normalised if configured.
    reward: [N] float32, reward of the previous action, clipped if configured; 0 where `is_first`.
    discount: [N] float32, 0.0 where the environment terminated, else 1.0 (no gamma in it).
    is_first: [N] bool, o_t is the first observation of an episode.
    is_last: [N] bool, o_t is the last observation of an episode, by termination or truncation.
    truncated: [N] bool, a time limit ended the episode; False where the environment terminated.
    episode_return: [N] float32, RAW undiscounted return so far; complete where `is_last`.
    episode_length: [N] int32, environment steps so far; complete where `is_last`.
    action_mask: [N, A] bool, which actions are legal at o_t; () unless the spec has `action_mask`.
    """

    observation: jax.Array
    reward: jax.Array
    discount: jax.Array
    is_first: jax.Array
    is_last: jax.Array
    truncated: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    action_mask: Any = ()


class VectorEnv(NamedTuple):
    """Pure functions `reset` and `step` over N environments, with their spec.

    spec: of one environment, unbatched, as its agent sees it (after wrappers and normalisation).
    num_envs: N.
    reset(key, *, statistics=None) -> (VectorState, VectorTimeStep): resets every environment.
      `statistics`: statistics to start from; an evaluation passes those of the training state.
    step(state, action [N, ...], key) -> (VectorState, VectorTimeStep).
    Both take one key, which they split into one per environment, or [N] typed keys.
    """

    spec: EnvSpec
    num_envs: int
    reset: Callable[..., tuple[VectorState, VectorTimeStep]]
    step: Callable[[VectorState, Any, jax.Array], tuple[VectorState, VectorTimeStep]]


def vectorise(
    env: Environment,
    num_envs: int,
    *,
    time_limit: int | None = None,
    reward_clip: float | None = None,
    normalise_observations: bool = False,
    frame_stack: int = 1,
    update_statistics: bool = True,
    coverage: bool = False,
    optimistic_resets: int = 1,
) -> VectorEnv:
    """Vectorise an environment: `num_envs` copies that step in parallel and reset automatically.

    Args:
      env: an unbatched environment that never resets itself.
      num_envs: N >= 1.
      time_limit: truncates episodes after this number of environment steps; the environment's own
        limit applies if it is shorter.
      reward_clip: rewards are clipped to [-reward_clip, reward_clip]; episode returns are not.
      normalise_observations: whether to subtract the running mean and divide by the running
        standard deviation.
      frame_stack: number of latest observations to concatenate on the last axis, oldest first.
      update_statistics: False freezes the statistics given to `reset`, for evaluation.
      coverage: whether to record the visited cells of a Countable task, including those of final
        observations.
      optimistic_resets: environments per episode that is begun at a step, at least 1. With N
        environments only the smallest whole number of at least N / optimistic_resets new episodes
        is computed at each step; environments that ended at the same step share them if there are
        more of these. `reset` of the result begins N different ones.

    Returns:
      A VectorEnv.

    Raises:
      UserError: an argument is out of range, the observation cannot be stacked or normalised, or
        the task is not Countable.
    """
    if num_envs < 1:
        raise UserError(must("num_envs", "at least 1", num_envs))
    if optimistic_resets < 1:
        hint = "1 computes a reset for every environment"
        raise UserError(must("optimistic_resets", "at least 1", optimistic_resets, hint))
    if reward_clip is not None and not reward_clip > 0:
        raise UserError(must("reward_clip", "above 0", reward_clip, "leave it out for no clipping"))
    with in_a_sentence(f"the spec of {type(env).__name__} cannot be read"):
        check_spec(env.spec)
        env = stack_frames(limit_time(env, time_limit), frame_stack)
    num_cells, cell = find_cells(env) if coverage else (0, None)
    raw = env.spec
    env_reset = _checked(env.reset, f"reset of {raw.name}", raw)
    env_step = _checked(env.step, f"step of {raw.name}", raw)
    spec = agent_spec(raw, reward_clip=reward_clip, normalised=normalise_observations)
    show = functools.partial(
        _show, reward_clip=reward_clip, update_statistics=update_statistics, cell=cell
    )

    def reset(key: jax.Array, *, statistics: Statistics | None = None):
        env_state, ts = jax.vmap(env_reset)(_split(key, num_envs))
        if not normalise_observations:
            statistics = ()
        elif not statistics:
            if not update_statistics:
                raise ValueError("reset needs the training state's statistics: they are frozen")
            statistics = initial_statistics(raw.observation.shape)
        zeros = jnp.zeros(num_envs, jnp.float32)
        visited = jnp.zeros(num_cells, bool) if coverage else ()
        counts = zeros.astype(jnp.int32)
        empty = VectorState(env_state, zeros > 0, zeros, counts, statistics, visited)
        return show(empty, ts, jnp.ones(num_envs, bool))

    def step(state: VectorState, action: jax.Array, key: jax.Array):
        # Step and reset share keys: of each environment only one of the two results is kept, so no
        # random bit is used twice. Both are computed: `lax.cond` under vmap over seeds is a select
        # anyway.
        keys = _split(key, num_envs)
        is_first = state.is_last
        stepped = jax.vmap(env_step)(state.env_state, action, keys)
        fresh = _begin(env_reset, keys, is_first, -(-num_envs // optimistic_resets))
        env_state, ts = jax.tree.map(lambda f, s: _where(is_first, f, s), fresh, stepped)
        return show(state._replace(env_state=env_state), ts, is_first)

    return VectorEnv(spec, num_envs, reset, step)


def _begin(
    env_reset: Callable[..., Any], keys: jax.Array, is_first: jax.Array, count: int
) -> tuple[EnvState, TimeStep]:
    """New episodes [N], of which only those where `is_first` is True are used.

    Args:
      env_reset: of one environment.
      keys: [N] of this step.
      is_first: [N] bool, which environments begin an episode.
      count: of different episodes; below N, environments share them in turn.
    """
    if count == len(is_first):
        return jax.vmap(env_reset)(keys)
    own = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys[:count])  # steps use `keys`
    different = jax.vmap(env_reset)(own)
    which = jnp.where(is_first, (jnp.cumsum(is_first, dtype=jnp.int32) - 1) % count, 0)
    return jax.tree.map(lambda x: x[which], different)


def _checked(
    call: Callable[..., Any], what: str, spec: EnvSpec
) -> Callable[..., tuple[EnvState, TimeStep]]:
    """An environment's reset or step whose exceptions and wrong results are UserErrors.

    `what` names it in messages. Rewards and flags of one entry get the shape [].
    """

    def checked(*arguments: Any) -> tuple[EnvState, TimeStep]:
        with in_a_sentence(f"{what} fails"):
            result = call(*arguments)
        if not isinstance(result, tuple) or [isinstance(r, TimeStep) for r in result] != [0, 1]:
            shown = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
            raise UserError(must(what, "(state, TimeStep)", shown, verb="return"))
        state, ts = result
        shape = getattr(ts.observation, "shape", None)
        if shape != spec.observation.shape:
            raise UserError(
                must(
                    what,
                    f"observations of the spec's shape {spec.observation.shape}",
                    type(ts.observation).__name__ if shape is None else shape,
                    verb="return",
                )
            )
        observation = ts.observation
        if jnp.issubdtype(observation.dtype, jnp.floating):  # float64 under jax_enable_x64
            observation = observation.astype(spec.observation.dtype)
        return state, ts._replace(
            observation=observation,
            reward=_single(ts.reward, f"{what}: the reward", "one number", jnp.number),
            terminated=_single(ts.terminated, f"{what}: terminated", "one bool"),
            truncated=_single(ts.truncated, f"{what}: truncated", "one bool"),
            action_mask=check_mask(ts.action_mask, spec, what),
        )

    return checked


def check_mask(mask: Any, spec: EnvSpec, what: str) -> Any:
    """Return the action mask of one time step, as it should be by the spec.

    Raises:
      UserError: it has another form, or the spec does not announce it; `what` names its origin.
    """
    form = (getattr(mask, "shape", None), getattr(mask, "dtype", None))
    if not spec.action_mask:
        if isinstance(mask, tuple):
            return mask
        hint = "set action_mask=True in the spec"
        raise UserError(must(what, "no action_mask", "one", hint, verb="return"))
    if form != ((spec.action.num_values,), np.dtype(bool)):  # type: ignore[attr-defined]
        shape = f"({spec.action.num_values},)"  # type: ignore[attr-defined]
        got = type(mask).__name__ if form[0] is None else f"{form[0]} and {form[1]}"
        raise UserError(
            must(what, f"an action_mask of shape {shape} and dtype bool", got, verb="return")
        )
    return mask


def _single(value: Any, field: str, allowed: str, kind: Any = jnp.bool_) -> jax.Array:
    """Return a leaf of one entry as an array [].

    Args:
      value: the leaf.
      field, allowed: words for the message.
      kind: of the dtype; a bool counts as a number.

    Raises:
      UserError: the leaf is something else.
    """
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:  # None, text
        raise UserError(must(field, allowed, repr(value))) from error
    known = array.dtype == jnp.bool_ or jnp.issubdtype(array.dtype, kind)
    if array.size != 1 or not known:
        got = f"shape {array.shape} and dtype {array.dtype}"
        raise UserError(must(field, allowed, got))
    return array.reshape(())


def _show(
    state: VectorState,
    ts: TimeStep,
    is_first: jax.Array,
    *,
    reward_clip: float | None,
    update_statistics: bool,
    cell: Cell | None,
) -> tuple[VectorState, VectorTimeStep]:
    """Updates episode statistics and coverage, and returns the time step that the agent sees."""
    going = ~is_first
    terminated = ts.terminated & going
    is_last = (ts.terminated | ts.truncated) & going
    reward = jnp.where(is_first, 0.0, ts.reward.astype(jnp.float32))
    episode_return = jnp.where(is_first, 0.0, state.episode_return + reward)
    episode_length = jnp.where(is_first, 0, state.episode_length + 1)
    statistics, observation = state.statistics, ts.observation
    if isinstance(statistics, RunningStatistics):
        if update_statistics:
            statistics = merge_statistics(statistics, observation)
        observation = normalise(statistics, observation)
    if reward_clip is not None:
        reward = jnp.clip(reward, -reward_clip, reward_clip)
    state = state._replace(
        is_last=is_last,
        episode_return=episode_return,
        episode_length=episode_length,
        statistics=statistics,
    )
    if cell is not None:
        cells = jax.vmap(cell)(state.env_state)
        state = state._replace(visited=state.visited.at[cells].set(True))
    return state, VectorTimeStep(
        observation=observation,
        reward=reward,
        discount=1.0 - terminated.astype(jnp.float32),
        is_first=is_first,
        is_last=is_last,
        truncated=is_last & ~terminated,
        episode_return=episode_return,
        episode_length=episode_length,
        action_mask=ts.action_mask,
    )


def _split(key: jax.Array, num_envs: int) -> jax.Array:
    """One key per environment, split from a single key if necessary."""
    given = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim > 0
    return key if given else jax.random.split(key, num_envs)


def _where(condition: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Selects along the leading axis."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (y.ndim - 1)), x, y)


def agent_spec(spec: EnvSpec, *, reward_clip: float | None, normalised: bool) -> EnvSpec:
    """Return a task's spec as the agent sees it, after reward clipping and normalisation.

    Args:
      spec: of the task.
      reward_clip: bound of the absolute reward; None clips nothing.
      normalised: whether observations are normalised by running statistics.

    Raises:
      UserError: the observation is one of several numbers, which cannot be normalised.
    """
    if reward_clip is not None:
        low, high = spec.reward_range or (-reward_clip, reward_clip)
        clip = (max(min(low, reward_clip), -reward_clip), max(min(high, reward_clip), -reward_clip))
        spec = spec._replace(reward_range=clip)
    if normalised:
        if isinstance(spec.observation, specs.DiscreteArray):
            hint = f"its observation is one of {spec.observation.num_values} numbers"
            allowed = f"false for {spec.name}"
            raise UserError(must("env.normalise_observations", allowed, "true", hint))
        if isinstance(spec.observation, PackedArray):
            hint = "normalise in the network, or choose an entry with observation_key"
            allowed = f"false for observations {spec.observation}"
            raise UserError(must("env.normalise_observations", allowed, "true", hint))
        observation = specs.BoundedArray(
            spec.observation.shape, jnp.float32, -NORMALISED_BOUND, NORMALISED_BOUND, "observation"
        )
        spec = spec._replace(observation=observation)
    return spec
