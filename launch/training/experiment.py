"""Build the parts of a run from its configuration: agent, environments, replay and runner."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from dm_env import specs
from jax.sharding import Mesh

from bellmax import UserError, must
from bellmax.agents import Agent, registry
from bellmax.envs import is_host_env, make_host_vector, make_vector_env
from bellmax.launch.actors.actor import ActorFactory
from bellmax.launch.actors.local import check_masks, make_host_agent, make_local_actors
from bellmax.launch.actors.pools import ActorPool
from bellmax.launch.config.points import Point, at_point, learners_of
from bellmax.launch.config.run_config import RunConfig, check_replay, check_rollout
from bellmax.launch.distributed.devices import check_platform, check_precision
from bellmax.launch.replay import ring as replay_lib
from bellmax.launch.runners.base import Evaluator, PolicyInputs, Runner, Varied
from bellmax.launch.runners.device_runner import make_runner
from bellmax.launch.runners.evaluation import make_evaluator
from bellmax.launch.runners.host_evaluation import HostEvaluator
from bellmax.launch.runners.host_runner import HostRunner
from bellmax.launch.runners.precision import with_precision
from bellmax.launch.runners.sharding import make_mesh, with_shardings
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.pieces import PIECE_BYTES, SAVING_BYTES

_HERE = "this machine"


class Experiment(NamedTuple):
    """The parts of a run, built from its configuration by `build`. No state is allocated yet.

    agent: with several points, that of the first.
    observation, action: specs of one observation, as the agent sees it, and of one action.
    seeds, points: of each of the S learners, the seeds of a point together.
    make_agent: makes the agent with the values of a point, which may be traced.
    mesh: of the devices that share the run; None for one device.
    """

    config: RunConfig
    agent: Agent
    observation: specs.Array
    action: specs.Array
    runner: Runner
    evaluator: Evaluator
    seeds: list[int]
    points: list[Point]
    make_agent: Callable[[Mapping[str, Any]], Agent]
    mesh: Mesh | None

    def init(self) -> TrainState:
        """Allocate and initialise the state of all seeds."""
        return self.runner.init(jnp.asarray(self.seeds, jnp.int32))

    def abstract_state(self) -> TrainState:
        """Return shapes and dtypes of the state, with shardings if there are several devices."""
        shapes = jax.eval_shape(self.runner.init, jnp.asarray(self.seeds, jnp.int32))
        return shapes if self.mesh is None else with_shardings(self.mesh, shapes)

    @property
    def groups(self) -> list[tuple[Point, list[int]]]:
        """Each point of the run, and the places of its learners among all."""
        found: list[tuple[Point, list[int]]] = []
        for i, point in enumerate(self.points):
            if not found or found[-1][0] != point:
                found.append((point, []))
            found[-1][1].append(i)
        return found

    def only(self, places: Sequence[int]) -> "Experiment":
        """Return the experiment of some of the learners, to evaluate their policies."""
        seeds, points = ([every[i] for i in places] for every in (self.seeds, self.points))
        return self._replace(seeds=seeds, points=points)

    @property
    def replay_bytes(self) -> int:
        """Size of the replay of all seeds together; 0 for an on-policy agent."""
        leaves = jax.tree.leaves(self.abstract_state().replay)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    def policy_inputs(self, state: TrainState) -> PolicyInputs:
        """Return the part of a state that greedy policies need, with a leading [S]."""
        return PolicyInputs(self.agent.actor_params(state.learner), state.env.statistics)

    def evaluate(self, state: TrainState, step: int) -> Any:
        """Play episodes of a state's greedy policies; None if the run was asked to stop."""
        return self.evaluate_policies(self.policy_inputs(state), step)

    def evaluate_policies(self, inputs: PolicyInputs, step: int) -> Any:
        """Like `evaluate`, but from the `policy_inputs` of a state."""
        seeds = jnp.asarray(self.seeds, jnp.int32)
        return self.evaluator(*inputs, seeds, jnp.int32(step), values_of(self.points))

    def restore(
        self, checkpoints: Checkpoints, step: int | None
    ) -> tuple[int, TrainState, str | None]:
        """Read a checkpoint (None: the newest intact one) and place it on the runner's devices.

        Returns:
          (step, state, warning): warning is a sentence if newer checkpoints are damaged.
        """
        in_host_memory = self.config.replay.memory == "host"
        cpu = jax.local_devices(backend="cpu")[0] if in_host_memory else None
        with jax.default_device(cpu):
            step, state, warning = _restore(checkpoints, step, self.abstract_state())
        return step, self.runner.place(state), warning

    def restore_policy_inputs(
        self, checkpoints: Checkpoints, step: int | None
    ) -> tuple[int, PolicyInputs, str | None]:
        """Like `restore`, but read only the `policy_inputs`: neither replay nor optimiser."""
        step, state, warning = self.restore_playable(checkpoints, step)
        return step, self.policy_inputs(state), warning

    def restore_playable(
        self, checkpoints: Checkpoints, step: int | None
    ) -> tuple[int, TrainState, str | None]:
        """Like `restore`, with None in place of the leaves that `policy_inputs` does not use."""
        needed = needed_leaves(self.policy_inputs, self.abstract_state())
        return _restore(checkpoints, step, needed, partial=True)

    def close(self) -> None:
        """Free the environments' resources outside jax."""
        self.runner.close()
        self.evaluator.close()


def _restore(
    checkpoints: Checkpoints, step: int | None, abstract_state: TrainState, partial: bool = False
) -> tuple[int, TrainState, str | None]:
    if step is None:
        return checkpoints.restore_latest_valid(abstract_state, partial=partial)
    return step, checkpoints.restore(step, abstract_state, partial=partial), None


def values_of(points: Sequence[Point]) -> dict[str, np.ndarray]:
    """Return the values [S] float32 of S learners by key, given the point of each."""
    return {key: np.array([point[key] for point in points], np.float32) for key in points[0]}


def needed_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Replace the leaves that `function(tree)` does not use by None."""
    leaves, structure = jax.tree.flatten(tree)
    flat = jax.make_jaxpr(lambda *x: function(jax.tree.unflatten(structure, x)))(*leaves).jaxpr
    used = {id(x) for equation in flat.eqns for x in equation.invars}
    used |= {id(x) for x in flat.outvars}
    kept = [leaf if id(x) in used else None for leaf, x in zip(leaves, flat.invars, strict=True)]
    return jax.tree.unflatten(structure, kept)


def build(
    config: RunConfig,
    *,
    episodes: int | None = None,
    make_actor: ActorFactory | None = None,
    devices: Sequence[Any] | None = None,
) -> Experiment:
    """Build and connect agent, environments, replay and runner.

    Args:
      config: a resolved configuration.
      episodes: replaces config.evaluation_episodes.
      make_actor: factory for actors in other processes; None makes actors in this process.
      devices: the run uses the first `config.devices` of these; None takes all that jax finds.
        Devices of a topology that is only described allow compiling for it.

    Raises:
      UserError: parts of the configuration contradict each other.
    """
    check_platform()
    check_precision()
    episodes = config.evaluation_episodes if episodes is None else episodes
    mesh = make_mesh(config.devices, devices)
    if is_host_env(config.env):
        parts = _build_host(config, episodes, make_actor, mesh)
        return Experiment(config, *parts, [config.seed], [{}], lambda point: parts[0], mesh)
    return _build_on_device(config, episodes, mesh)


def _build_on_device(config: RunConfig, episodes: int, mesh: Mesh | None) -> Experiment:
    if config.replay.memory == "host":
        raise UserError(
            must("replay.memory", f"device, as {config.env.name} is stepped on the device", "host")
        )
    env = make_vector_env(config.env)
    _, make = registry.load(config.agent_name)

    def make_agent(point: Mapping[str, Any]) -> Agent:
        made = make(at_point(config, point).agent, env.spec)
        return with_precision(check_masks(made, config.agent_name, env.spec), config.precision)

    learners = learners_of(config)
    points, seeds = [point for point, _ in learners], [seed for _, seed in learners]
    agent = make_agent(points[0])
    varied = Varied(values_of(points), make_agent) if config.vmap else None
    replay = _make_replay(config, agent, env.spec.observation)
    runner = make_runner(
        agent,
        env,
        replay,
        rollout_length=config.rollout_length,
        updates_per_rollout=config.updates_per_rollout,
        num_seeds=len(learners),
        varied=varied,
        mesh=mesh,
    )
    evaluation_env = make_vector_env(config.env, num_envs=episodes, evaluation=True)
    limit = config.evaluation_max_steps
    evaluator = make_evaluator(agent, evaluation_env, limit, varied.make if varied else None)
    parts = agent, env.spec.observation, env.spec.action, runner, evaluator
    return Experiment(config, *parts, seeds, points, make_agent, mesh)


def _build_host(
    config: RunConfig, episodes: int, make_actor: ActorFactory | None, mesh: Mesh | None
) -> tuple[Agent, specs.Array, specs.Array, Runner, Evaluator]:
    if config.vmap:
        allowed = f"left out, as {config.env.name} is not stepped on the device"
        hint = "`bellmax sweep` trains a run for each value"
        raise UserError(must("vmap", allowed, ", ".join(config.vmap), hint))
    if config.seeds > 1:
        allowed = f"1, as {config.env.name} is not stepped on the device"
        hint = "`bellmax sweep` with --seed 0,1 trains a run for each seed"
        raise UserError(must("seeds", allowed, config.seeds, hint))
    if config.replay.memory == "host" and config.devices > 1:
        raise UserError(must("devices", "1 for replay.memory host", config.devices))
    if jax.process_count() > 1:
        allowed = "an environment that is stepped on the device, in a run of several processes"
        raise UserError(must("env.name", allowed, config.env.name))
    agent, spec = make_host_agent(config)
    observation = spec.observation
    replay, device = _make_replay(config, agent, observation), None
    if make_actor is None:
        device = _actor_device(config.host.actor_device)
        if mesh is not None and device is None:
            device = mesh.devices.flat[0]
        make_actor = make_local_actors(config, agent, device)
    lock_step = config.host.lock_step or replay is None
    ahead = None if lock_step else config.host.ahead
    pool = ActorPool(make_actor, config.host.actors, ahead=ahead, device=device)
    runner = HostRunner(
        agent,
        observation,
        pool,
        replay,
        num_envs=config.env.num_envs,
        rollout_length=config.rollout_length,
        updates_per_rollout=config.updates_per_rollout,
        normalised=config.env.normalise_observations,
        host_memory=replay is not None and config.replay.memory == "host",
        mesh=mesh,
        mask_size=spec.action.num_values if spec.action_mask else 0,  # type: ignore[attr-defined]
    )
    make_env = functools.partial(make_host_vector, config.env, num_envs=episodes, evaluation=True)
    evaluator = HostEvaluator(
        agent, make_env, config.evaluation_max_steps, stopping=lambda: pool.stopping
    )
    return agent, observation, spec.action, runner, evaluator


def _actor_device(number: int | None) -> Any:
    if number is None:
        return None
    devices = jax.local_devices()
    if number >= len(devices):
        raise UserError(
            must("host.actor_device", f"below {len(devices)}, the number of devices", number)
        )
    return devices[number]


def _make_replay(
    config: RunConfig, agent: Agent, observation: specs.Array
) -> replay_lib.Replay | None:
    """Return the replay of a configuration; None for an on-policy agent."""
    spec = agent.replay
    if spec.on_policy:
        check_rollout(
            config,
            sequence_length=spec.sequence_length,
            batch_size=spec.batch_size,
            transitions=spec.transitions,
        )
        return None
    frame_stack = config.stored_frame_stack
    check_replay(
        config,
        sequence_length=spec.sequence_length,
        batch_size=spec.batch_size,
        frame_stack=frame_stack,
    )
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
            frame_stack=frame_stack,
            observation_shape=observation.shape,
            sharded=config.devices > 1,
        )
    except ValueError as error:
        raise UserError(f"replay.capacity: {error}") from error


def check_memory(experiment: Experiment) -> str:
    """Check the size of the replay before it is allocated, and return it as a sentence.

    Raises:
      UserError: the replay and its checkpoints would take more than replay.memory_fraction of
        the free memory.
    """
    if experiment.agent.replay.on_policy:
        return "no replay: the agent learns from its rollouts"
    size, fraction = experiment.replay_bytes, experiment.config.replay.memory_fraction
    free, where = _free_memory(experiment.config.replay.memory)
    # Pieces are cut on their device and compressed in host memory.
    saving = min(3 * size, SAVING_BYTES if where == _HERE else PIECE_BYTES)
    if size + saving > fraction * free:
        raise UserError(
            f"replay.capacity: replay would take {_amount(size)} and saving it {_amount(saving)}, "
            f"more than {fraction:.0%} (replay.memory_fraction) of the {_amount(free)} free on "
            f"{where}; lower replay.capacity or seeds"
        )
    return f"replay takes {_amount(size)} of the {_amount(free)} free on {where}"


def _free_memory(memory: str) -> tuple[int, str]:
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if memory == "device" and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0), device.device_kind
    return psutil.virtual_memory().available, _HERE


def _amount(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
