"""Actors in processes of a Ray cluster, on this machine or on others.

Each process builds the agent and its share of the environments from the configuration. Parameters
are put into Ray's object store once per publication; rollouts are returned as numpy arrays. An
actor that dies is replaced.
"""

import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bellmax import UserError
from bellmax.agents import Memory
from bellmax.envs import VectorTimeStep
from bellmax.envs.options import import_extra
from bellmax.launch.actors.actor import Actor, ActorFactory
from bellmax.launch.actors.local import make_host_agent, make_local_actors
from bellmax.launch.config.run_config import RunConfig
from bellmax.launch.distributed.devices import configure_jax
from bellmax.launch.distributed.ray_cluster import reached
from bellmax.launch.runners.base import HostRollout, PolicyInputs, RolloutSums

MAX_DEATHS = 10  # consecutive deaths of one actor's process before the run fails
START_SECONDS = 120.0  # limit for getting a CPU and starting Python
_CLOSE_SECONDS = 5.0
_WHEN_LOST = "`bellmax resume` continues from the last checkpoint"


class _DiedError(Exception):
    """An actor's process died; the message gives the reason."""


def make_ray_actors(config: RunConfig) -> ActorFactory:
    """Return a factory of actors on a Ray cluster, which must be joined before it is called."""
    store = ParameterStore()

    def make(key: jax.Array, seed: Callable[[int, int], int], now: int) -> RemoteActor:
        return RemoteActor(config, key, seed, now, store)

    return make


class ParameterStore:
    """Parameters in Ray's object store: stored when the first actor asks, shared by all."""

    def __init__(self):
        self._lock = threading.Lock()
        self._policy: PolicyInputs | None = None
        self._reference: Any = None

    def reference(self, policy: PolicyInputs) -> Any:
        """Return the reference of these parameters."""
        with self._lock:
            if self._reference is None or policy is not self._policy:
                ray: Any = import_extra("ray", "ray")
                self._reference = ray.put(jax.device_get(policy))
                self._policy = policy
            return self._reference


class RemoteActor:
    """A `Collector` whose environments and policy run in a Ray process.

    Args:
      config: configuration of the run.
      key: key of its actions.
      seed: seed(now, replaced) -> seed of its environments.
      now: the vector step at which it starts.
      store: the parameter store that all actors of the run share.

    Raises:
      UserError: from `collect`: no CPU is free, its process and ten replacements died in a row, or
        the environment raised a UserError.
      LostClusterError: from `collect`: the connection to the cluster is lost.
      Exception: from `collect`: an exception of the environment.
    """

    def __init__(
        self,
        config: RunConfig,
        key: jax.Array,
        seed: Callable[[int, int], int],
        now: int,
        store: ParameterStore,
    ):
        self.num_envs = config.env.num_envs // config.host.actors
        self._config, self._seed, self._store = config, seed, store
        self._key = str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key))
        self._seen: VectorTimeStep | None = None
        self._replaced, self._in_a_row = 0, 0
        # Faults by reason: of replaced processes with their deaths, and of the current process.
        self._earlier_faults: dict[str, int] = {"died": 0}
        self._faults: dict[str, int] = {}
        self.first_fault = ""
        self._start_process(now)

    @property
    def faults(self) -> Mapping[str, int]:
        """Number of restarts of environments, by reason; "died" counts replaced actors."""
        return _sum(self._earlier_faults, self._faults)

    def collect(
        self, policy: PolicyInputs, memory: Memory, now: int
    ) -> tuple[HostRollout, RolloutSums]:
        """Take L vector steps, the first with number `now`; memory [E, ...] is that before it."""
        memory = jax.device_get(memory)
        while True:
            try:
                answer = self._ask(policy, memory, now)
                break
            except _DiedError as death:
                self._replace(now, str(death))
        collected, sums, self._faults, first = answer
        self.first_fault = self.first_fault or first
        self._seen, self._in_a_row = collected.after, 0
        return collected, sums

    def close(self) -> None:
        """Free the environments and end the process."""
        if self._built is None:
            with contextlib.suppress(Exception):
                _answer(self._remote.close.remote, _CLOSE_SECONDS)
        self._kill()

    def _ask(self, policy: PolicyInputs, memory: Memory, now: int) -> Any:
        self._await_start()
        reference = self._store.reference(policy)
        return _answer(lambda: self._remote.collect.remote(reference, memory, now))

    def _start_process(self, now: int) -> None:
        ray: Any = import_extra("ray", "ray")
        options = {"num_cpus": 1, "runtime_env": {"env_vars": {"JAX_PLATFORMS": "cpu"}}}
        self._remote = ray.remote(RayActor).options(**options).remote(os.getcwd())
        self._ready = self._remote.ready.remote()
        seed = self._seed(now, self._replaced)
        self._built = self._remote.build.remote(self._config, self._key, seed, self._seen)

    def _await_start(self) -> None:
        """Wait until the process has built its actor."""
        if self._built is None:
            return
        if not _answer(lambda: self._ready, START_SECONDS):
            ray: Any = import_extra("ray", "ray")
            cpus, free = ray.cluster_resources(), ray.available_resources()
            raise UserError(
                f"an actor got no CPU of the Ray cluster within {START_SECONDS:g} s: "
                f"{free.get('CPU', 0):g} of its {cpus.get('CPU', 0):g} are free; lower "
                "host.actors, wait or add nodes"
            )
        _answer(lambda: self._built)
        self._built = None

    def _replace(self, now: int, death: str) -> None:
        self._kill()
        if self._in_a_row == MAX_DEATHS:
            raise UserError(
                f"a Ray actor died, and so did {MAX_DEATHS} replacements in a row, the last "
                f"because {death}"
            )
        self._replaced, self._in_a_row = self._replaced + 1, self._in_a_row + 1
        self._earlier_faults = _sum(self._earlier_faults, self._faults, {"died": 1})
        self._faults = {}
        self._start_process(now)

    def _kill(self) -> None:
        ray: Any = import_extra("ray", "ray")
        with contextlib.suppress(Exception), reached(_WHEN_LOST):
            ray.kill(self._remote)


def _sum(*counts: Mapping[str, int]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def _answer(call: Callable[[], Any], seconds: float | None = None) -> Any:
    """Resolve the Ray reference that `call` returns; None after `seconds` without a value."""
    ray: Any = import_extra("ray", "ray")
    errors = ray.exceptions
    try:
        with reached(_WHEN_LOST):
            return ray.get(call(), timeout=seconds)
    except errors.GetTimeoutError:
        return None
    except errors.RayTaskError as error:
        if not isinstance(error.cause, errors.RayError):
            raise error.cause from None
        raise _DiedError(_death_reason(str(error.cause))) from error
    except errors.RayError as error:
        raise _DiedError(_death_reason(str(error))) from error


def _death_reason(words: str) -> str:
    """Extract the reason of an actor's death from Ray's message.

    Raises:
      UserError: no actor can start.
    """
    lines = [line.strip() for line in words.strip().splitlines() if line.strip()] or ["unknown"]
    if "failed to import" in words or "creation task" in words:
        raise UserError(
            f"an actor does not start on the Ray cluster ({lines[-1][:200]}); bellmax and the "
            "environment's packages must be installed on every node"
        )
    why = next((line for line in lines if line.startswith("The actor is dead because")), lines[0])
    return why.removeprefix("The actor is dead because ")[:200]


class RayActor:
    """The part of an actor that runs in a Ray process.

    Args:
      folder: working directory of the run. If it exists on this machine, it is added to the import
        path, for the user's own environments.
    """

    def __init__(self, folder: str):
        if folder not in sys.path and os.path.isdir(folder):
            sys.path.append(folder)
        self._actor: Actor | None = None

    def ready(self) -> bool:
        """Return True once the process is running."""
        return True

    def build(
        self,
        config: RunConfig,
        key: tuple[str, np.ndarray],
        seed: int,
        seen: VectorTimeStep | None,
    ) -> bool:
        """Make the actor. key: implementation and data of the key. seed, seen: as in `Actor`."""
        configure_jax()
        agent, _ = make_host_agent(config)
        implementation, data = key
        act_key: Any = jax.random.wrap_key_data(jnp.asarray(data), impl=implementation)
        self._actor = make_local_actors(config, agent).make(act_key, seed, seen)
        return True

    def collect(
        self, policy: PolicyInputs, memory: Memory, now: int
    ) -> tuple[HostRollout, RolloutSums, dict[str, int], str]:
        """Return a rollout as numpy arrays, its sums, the faults so far, and the first one."""
        assert self._actor is not None
        collected, sums = self._actor.collect(jax.device_put(policy), memory, now)
        faults, first = dict(self._actor.faults), self._actor.first_fault
        return jax.device_get(collected), sums, faults, first

    def close(self) -> None:
        """Free the environments."""
        if self._actor is not None:
            self._actor.close()
