"""An actor: steps host environments with given parameters and returns rollouts."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from bellmax.agents import Memory, Outcome
from bellmax.envs import HostVector, Step, VectorTimeStep
from bellmax.launch.runners.base import HostRollout, PolicyInputs, RolloutSums

# act(observation [E, ...], memory, is_first [E], now, *extras) -> (observation as the agent saw it,
# action, memory, behaviour), [E, ...] each, as in ActorOutput; `now` is the vector step, and
# extras are what the agent's `sees` names. The result is a plain tuple, because creating a
# NamedTuple at each step is slow.
Act = Callable[..., tuple[Any, Any, Memory, Any]]


class Collector(Protocol):
    """Collects rollouts for a pool: an `Actor`, or the client of one in another process.

    num_envs: E, number of its environments.
    faults: number of restarts of environments and of the actor itself, by reason.
    first_fault: description of the first of them, "" if there is none.
    """

    @property
    def num_envs(self) -> int: ...

    @property
    def faults(self) -> Mapping[str, int]: ...

    @property
    def first_fault(self) -> str: ...

    def collect(
        self, policy: PolicyInputs, memory: Memory, now: int
    ) -> tuple[HostRollout, RolloutSums]:
        """Take L vector steps, the first with number `now`; memory [E, ...] is that before it."""
        ...

    def close(self) -> None:
        """Free its environments."""
        ...


# make_actor(key, seed, now) -> Collector that starts at vector step `now`.
# key: for its actions. seed(now, replaced) -> seed of its environments, after `replaced` earlier
# processes of this actor have died.
ActorFactory = Callable[[jax.Array, Callable[[int, int], int], int], Collector]


class Actor:
    """A vector environment and the policy that acts in it.

    Args:
      env: the environments, E of them.
      bind: bind(policy) -> act, compiled, for one rollout.
      length: L, vector steps in a rollout.
      observes: whether the agent has `observe`, which needs outcomes.
      normalised: whether the agent's observations are normalised.
      frames: whether rollouts contain only the newest frame of each observation.
      sees: as in `Agent`.
      seed: seed of the environments.
      seen: if this actor replaces another one, the last time step [E, ...] of that one. It becomes
        the first time step of this actor, and its transition is masked. None for a new actor.
    """

    def __init__(
        self,
        env: HostVector,
        bind: Callable[[PolicyInputs], Act],
        *,
        length: int,
        observes: bool,
        normalised: bool,
        frames: bool = False,
        sees: tuple[str, ...] = (),
        seed: int,
        seen: VectorTimeStep | None = None,
    ):
        self._env = env
        self._bind, self._length = bind, length
        self._observes, self._normalised, self._frames = observes, normalised, frames
        self._sees, self._masked = sees, env.spec.action_mask
        opening = env.reset(seed)
        self._seen, self._frame = opening, env.frame
        self._opening = None
        if seen is not None:
            self._seen, self._opening = seen, opening
            if frames:
                self._frame = seen.observation[..., -env.frame.shape[-1] :]

    @property
    def num_envs(self) -> int:
        """E."""
        return self._env.num_envs

    @property
    def faults(self) -> Mapping[str, int]:
        """Number of restarts of environments, by reason."""
        return self._env.faults

    @property
    def first_fault(self) -> str:
        """Description of the first fault of an environment, "" if there was none."""
        return self._env.first_fault

    def collect(
        self, policy: PolicyInputs, memory: Memory, now: int
    ) -> tuple[HostRollout, RolloutSums]:
        """Take L vector steps, the first with number `now`; memory [E, ...] is that before it."""
        act, seen, before = self._bind(policy), self._seen, memory
        rows = [seen[1:8]]  # without observations, which would allocate memory at each step
        observations, actions, behaviours, memories, raw, masks = [], [], [], [], [], []
        for i in range(self._length):
            extras = [getattr(seen, name) for name in self._sees]
            acted = act(seen.observation, memory, seen.is_first, now + i, *extras)
            observation, action, memory, behaviour = acted
            actions.append(np.asarray(action))
            behaviours.append(behaviour)
            if self._frames:
                observations.append(self._frame)
            else:
                observations.append(observation if self._normalised else seen.observation)
            if self._normalised:
                raw.append(seen.observation)
            if self._masked:
                masks.append(seen.action_mask)
            if self._observes:
                memories.append(memory)
            if self._opening is None:
                seen = self._env.step(actions[-1])
            else:  # a replaced actor: the action has no transition
                seen, self._opening = self._opening, None
            self._frame = self._env.frame
            rows.append(seen[1:8])
        self._seen = seen
        arrays: Any = map(np.array, zip(*rows, strict=True))
        reward, discount, is_first, is_last, _, returns, lengths = arrays
        # The action is ignored if the episode has ended or the environment is restarted.
        ignored, ended = is_last[:-1] | is_first[1:], is_last[1:]
        taken = _stack(observations), _stack(actions), reward[1:], discount[1:]
        own = _stack(behaviours), np.array(masks) if masks else ()
        records = Step(*taken, is_first[:-1], ignored, *own)
        outcome = Outcome(_stack(memories), returns[1:], ended) if self._observes else ()
        number_ended = int(np.count_nonzero(ended))
        env_steps = ignored.size - int(np.count_nonzero(ignored))
        episodes = RolloutSums(env_steps, number_ended, 0.0, 0)
        if number_ended:
            episodes = episodes._replace(
                episode_return=float(returns[1:][ended].sum(dtype=np.float64)),
                episode_length=int(lengths[1:][ended].sum()),
            )
        raw = np.array(raw) if self._normalised else ()
        return HostRollout(records, before, seen, memory, outcome, raw), episodes

    def close(self) -> None:
        """Free the environments."""
        self._env.close()


def _stack(trees: list[Any]) -> Any:
    """Stack the leaves of L trees to [L, ...] on the host, in a third of the time of np.stack."""
    if isinstance(trees[0], np.ndarray):
        return np.array(trees)
    if isinstance(trees[0], tuple) and not trees[0]:
        return ()
    return jax.tree.map(lambda *x: np.array([np.asarray(a) for a in x]), *trees)
