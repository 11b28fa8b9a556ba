"""Actors that step environments in this process."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from bellmax import UserError, must
from bellmax.agents import ActInput, Agent, registry
from bellmax.envs import (
    EnvSpec,
    HostVector,
    VectorTimeStep,
    agent_spec,
    is_pool,
    make_host_vector,
)
from bellmax.envs.statistics import normalise
from bellmax.launch.actors.actor import Act, Actor
from bellmax.launch.config.run_config import RunConfig
from bellmax.launch.runners.base import PolicyInputs
from bellmax.launch.runners.precision import with_precision


class LocalActors:
    """An `ActorFactory` for actors in this process.

    Args:
      agent: the agent.
      make_env: makes the environments of one actor.
      num_envs: N, summed over actors; the agent's schedules count the steps of all.
      rollout_length: L, vector steps in a rollout.
      normalised: whether the agent's observations are normalised.
      newest_frames: whether rollouts contain only the newest frame of each observation.
      device: device of the policy; None is the default device.
    """

    def __init__(
        self,
        agent: Agent,
        make_env: Callable[[], HostVector],
        *,
        num_envs: int,
        rollout_length: int,
        normalised: bool = False,
        newest_frames: bool = False,
        device: Any = None,
    ):
        self._agent, self._make_env, self._num_envs = agent, make_env, num_envs
        self._length, self._newest_frames = rollout_length, newest_frames
        self._normalised, self._device = normalised, device
        self._act = jax.jit(self._act_one, static_argnums=(0, 1))

    def __call__(self, key: jax.Array, seed: Callable[[int, int], int], now: int) -> Actor:
        """Make an actor that starts at vector step `now`; arguments as in `ActorFactory`."""
        return self.make(key, seed(now, 0))

    def make(self, key: jax.Array, seed: int, seen: VectorTimeStep | None = None) -> Actor:
        """Make an actor.

        Args:
          key: key of its actions.
          seed: seed of its environments.
          seen: as in `Actor`.
        """
        # Raw key data and lists of leaves are faster arguments than typed keys and dictionaries.
        key_impl, data = jax.random.key_impl(key), jax.random.key_data(key)
        if self._device is not None:
            data = jax.device_put(data, self._device)

        def bind(policy: PolicyInputs) -> Act:
            leaves, tree = jax.tree.flatten(policy)
            return functools.partial(self._act, key_impl, tree, data, leaves)

        return Actor(
            self._make_env(),
            bind,
            length=self._length,
            observes=self._agent.observe is not None,
            normalised=self._normalised,
            frames=self._newest_frames,
            sees=self._agent.sees,
            seed=seed,
            seen=seen,
        )

    def _act_one(
        self,
        key_impl: Any,
        tree: Any,
        key_data: jax.Array,
        leaves: list[jax.Array],
        observation: Any,
        memory: Any,
        is_first: Any,
        now: Any,
        *extras: Any,
    ) -> tuple[Any, Any, Any, Any]:
        params, statistics = jax.tree.unflatten(tree, leaves)
        if self._normalised:
            observation = normalise(statistics, observation)
        key = jax.random.fold_in(jax.random.wrap_key_data(key_data, impl=key_impl), now)
        step = now * self._num_envs
        seen = dict(zip(self._agent.sees, extras, strict=True))
        inputs = ActInput(observation, memory, is_first, key, step, **seen)
        output = self._agent.act(params, inputs)
        shown = observation if self._normalised else ()
        return shown, output.action, output.memory, output.behaviour


def make_host_agent(config: RunConfig) -> tuple[Agent, EnvSpec]:
    """Return the agent of a run on host environments, and the spec of a raw task.

    One environment is made for its specs, and closed.
    """
    # An environment with a timeout gets its own process, which takes seconds to start. The probe
    # needs one only for a factory of the user's own, which may hang. Pools refuse a timeout.
    keeps_timeout = ":" in config.env.name or is_pool(config.env.name)
    timeout = config.env.timeout if keeps_timeout else None
    probe = make_host_vector(dataclasses.replace(config.env, timeout=timeout), num_envs=1)
    raw = probe.spec
    probe.close()
    spec = agent_spec(raw, reward_clip=None, normalised=config.env.normalise_observations)
    _, make_agent = registry.load(config.agent_name)
    agent = check_masks(make_agent(config.agent, spec), config.agent_name, spec)
    return with_precision(agent, config.precision), raw


def check_masks(agent: Agent, name: str, spec: EnvSpec) -> Agent:
    """Return an agent that respects the action masks of a task, if it has them.

    Raises:
      UserError: the agent does not.
    """
    if spec.action_mask and "action_mask" not in agent.sees:
        allowed, hint = f"a task without action masks for {name}", "its `act` does not see them"
        raise UserError(must("env.name", allowed, spec.name, hint))
    return agent


def make_local_actors(config: RunConfig, agent: Agent, device: Any = None) -> LocalActors:
    """Return the factory of the actors of a configuration in this process."""
    num_envs = config.env.num_envs // config.host.actors
    return LocalActors(
        agent,
        functools.partial(make_host_vector, config.env, num_envs=num_envs),
        num_envs=config.env.num_envs,
        rollout_length=config.rollout_length,
        normalised=config.env.normalise_observations,
        newest_frames=not agent.replay.on_policy and config.stored_frame_stack > 1,
        device=device,
    )
