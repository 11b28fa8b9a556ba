"""brax's tasks under the environment contract. brax is imported when a task is made."""

import copy
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.adapters.shared.dtypes import own_dtypes, same_dtypes
from bellmax.envs.adapters.shared.mujoco import no_log, theirs
from bellmax.envs.base import EnvSpec, TimeStep
from bellmax.envs.errors import in_words
from bellmax.envs.options import (
    check_choice,
    check_options,
    check_parameters,
    check_types,
    check_unwrapped,
    defaults_of,
    import_extra,
    unknown,
)

BACKENDS = ("spring", "generalized", "positional", "mjx")
# A stub for brax's tests, and a task whose fluid model (0.14.2) uses an argument that jnp.clip no
# longer has.
_NOT_A_TASK = ("fast", "swimmer")
_PICTURE = (240, 320)  # pixels, height and width
_EFFECTIVE = ("spring", "positional")  # these raise masses and inertias to a model-specific power


def make(
    task: str,
    *,
    backend: str = "spring",
    time_limit: int = 1000,
    scale_inertia: bool = True,
    **options: Any,
) -> "BraxEnv":
    """Makes a brax task, such as `hopper` or `halfcheetah`.

    Args:
      task: one of `list_tasks()`.
      backend: physics engine: spring (fast, soft), generalized, positional, or mjx (MuJoCo's own).
      time_limit: in environment steps, at least 1. brax's own wrapper uses 1000 for every task.
      scale_inertia: whether a link's inertia follows its mass when `with_parameters` changes that.
      **options: arguments of the task's constructor, such as ctrl_cost_weight.

    Raises:
      UserError: brax is not installed, or it has no such task, backend or option.
    """
    tasks = list_tasks()
    if task not in tasks:
        raise unknown("task", task, tasks, of="brax")
    check_choice("backend", backend, BACKENDS)
    constructor = _brax()._envs[task]
    allowed = [p.name for p in inspect.signature(constructor).parameters.values()]
    allowed = [name for name in allowed if name not in ("backend", "kwargs")] + ["n_frames"]
    check_options(f"brax/{task}", options, ["backend", "time_limit", "scale_inertia", *allowed])
    ours = {"time_limit": time_limit, "scale_inertia": scale_inertia}
    nominal = {"n_frames": 1, **defaults_of(make), **defaults_of(constructor)}
    check_types(options | ours, nominal)
    if time_limit < 1:
        raise UserError(must("time_limit", "at least 1 environment step", time_limit))
    try:
        with theirs(), no_log():
            env = constructor(backend=backend, **options)
    except Exception as error:  # a backend without the task, or an option's value
        raise UserError(f"brax could not make {task} with backend {backend}: {error}") from error
    return BraxEnv(env, _spec(task, env, time_limit), _parameters(env.sys), scale_inertia)


def from_brax(env: Any, *, time_limit: int = 1000) -> "BraxEnv":
    """Takes a brax environment object, such as one of your own class.

    Args:
      env: a `brax.envs.Env`; its actions are in [-1, 1].
      time_limit: in environment steps, at least 1.

    Raises:
      UserError: it is in a wrapper of brax, or its observation is not one array.
    """
    hint = "make it with brax.envs.get_environment, bellmax resets it and limits its time"
    check_unwrapped(env, "brax.envs.wrappers", "a brax environment", hint)
    task, sys = type(env).__name__.lower(), getattr(env, "sys", None)
    return BraxEnv(env, _spec(task, env, time_limit), {} if sys is None else _parameters(sys))


def list_tasks() -> list[str]:
    """brax's tasks, without the prefix `brax/`."""
    return sorted(name for name in _brax()._envs if name not in _NOT_A_TASK)


class BraxState(NamedTuple):
    """physics: brax's pipeline state. time: [] int32, environment steps since the reset.

    info: brax's, empty in its own tasks.
    """

    physics: Any
    time: jax.Array
    info: Any


@dataclasses.dataclass(frozen=True, eq=False)
class BraxEnv:
    """One brax task: actions [A] in [-1, 1], observations [O] float32, without brax's wrappers.

    `parameters` are `friction`, `gravity` and `<link>_mass` of every named link. Friction is the
    sliding coefficient; setting it changes ALL geometries, because under every backend a contact
    uses the larger coefficient of its two geometries. Its nominal value is the floor's, so setting
    friction to its nominal value changes tasks whose feet are rougher than the floor. Gravity is in
    m/s^2 downwards, masses in kg. Quantities that the model compiler derives from masses (inverse
    weights that soften contacts and limits) stay nominal.

    The backends spring and positional do not use masses directly: they raise masses and inertias
    to a power chosen by the model's author, 0 for hopper, ant and pusher. A changed mass therefore
    multiplies the result by new / nominal; otherwise it would have no effect in those tasks.

    env: brax's environment object. spec: without observation bounds, as brax declares none.
    parameters: nominal values by name. scale_inertia: whether inertias follow changed masses.
    changed: [] float32 by name, values that override nominal parameters.
    """

    env: Any
    spec: EnvSpec
    parameters: dict[str, float]
    scale_inertia: bool = True
    changed: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)

    def with_parameters(self, values: Mapping[str, jax.Array | float]) -> "BraxEnv":
        """See `Parametric`. A traced mass is not checked to be positive."""
        check_parameters(self.spec.name, values, self.parameters)
        changed = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
        return dataclasses.replace(self, changed=changed)

    def reset(self, key: jax.Array) -> tuple[BraxState, TimeStep]:
        with theirs():
            brax_state = self._current().reset(key)
        no = jnp.zeros((), bool)
        observation = jnp.asarray(brax_state.obs, jnp.float32)
        state = BraxState(brax_state.pipeline_state, jnp.zeros((), jnp.int32), brax_state.info)
        ts = TimeStep(observation, jnp.float32(0), terminated=no, truncated=no)
        return own_dtypes(state), ts

    def step(
        self, state: BraxState, action: jax.Array, key: jax.Array
    ) -> tuple[BraxState, TimeStep]:
        del key  # brax's physics is deterministic
        env, physics = self._current(), state.physics
        if self.changed and self.env.backend in _EFFECTIVE:  # reset stored the masses in the state
            physics = physics.replace(mass=env.sys.link.inertia.mass)
        zero = jnp.float32(0)
        with theirs():
            # The physics clips actions, but the control cost in the reward would not.
            before = _brax().State(physics, zero, zero, zero, {}, state.info)
            after = env.step(before, jnp.clip(action, -1.0, 1.0))
        time, limit = state.time + 1, self.spec.time_limit
        terminated = jnp.asarray(vars(after)["done"]) > 0
        late = limit is not None and time >= limit
        ts = TimeStep(
            observation=jnp.asarray(after.obs, jnp.float32),
            reward=jnp.asarray(after.reward, jnp.float32).reshape(()),
            terminated=terminated,
            truncated=~terminated & late,
        )
        physics, info = same_dtypes((state.physics, state.info), (after.pipeline_state, after.info))
        return BraxState(physics, time, info), ts

    def draw(self, env_state: BraxState) -> np.ndarray:
        """Draws with MuJoCo, from the camera that follows the robot if there is one.

        Raises:
          UserError: MuJoCo cannot draw on this machine.
        """
        mujoco, renderer, data = self._renderer
        model, physics = self.env.sys.mj_model, env_state.physics
        data.qpos[:], data.qvel[:] = physics.q, physics.qd
        mujoco.mj_forward(model, data)
        renderer.update_scene(data, camera=0 if model.ncam else -1)
        return renderer.render()

    @functools.cached_property
    def _renderer(self) -> tuple[Any, Any, Any]:
        """The module mujoco, a renderer, and an MjData of the model."""
        mujoco: Any = importlib.import_module("mujoco")
        model = self.env.sys.mj_model
        try:
            return mujoco, mujoco.Renderer(model, *_PICTURE), mujoco.MjData(model)
        except Exception as error:  # the type of exception depends on the OpenGL backend
            raise UserError(
                f"{self.spec.name} cannot draw here ({in_words(error)}); set "
                "MUJOCO_GL=egl before the program starts"
            ) from error

    def _current(self) -> Any:
        """brax's object, or a copy of it with the changed parameters."""
        if not self.changed:
            return self.env
        env = copy.copy(self.env)
        env.sys = _change(self.env.sys, self.changed, self.env.backend, self.scale_inertia)
        return env


def _spec(task: str, env: Any, time_limit: int) -> EnvSpec:
    with theirs():
        observation = jax.eval_shape(env.reset, jax.random.key(0)).obs
    if not hasattr(observation, "shape"):
        raise UserError(
            must(f"the observation of brax/{task}", "one array", f"a {type(observation).__name__}")
        )
    size = observation.shape
    low = np.full(env.action_size, -1.0, np.float32)
    return EnvSpec(
        name=f"brax/{task}",
        observation=specs.Array(size, np.float32, "observation"),
        action=specs.BoundedArray(low.shape, np.float32, low, -low, "action"),
        time_limit=time_limit,
    )


def _parameters(sys: Any) -> dict[str, float]:
    """Nominal values: friction (no unit), gravity in m/s^2, masses in kg."""
    floor = np.asarray(sys.geom_friction)[np.asarray(sys.geom_bodyid) == 0, 0]
    friction = {"friction": float(floor.max())} if floor.size and _has_contacts(sys) else {}
    gravity = {"gravity": -float(sys.gravity[2])} if sys.gravity[2] else {}
    masses = {f"{name}_mass": float(sys.link.inertia.mass[i]) for name, i in _links(sys)}
    return friction | gravity | {name: mass for name, mass in masses.items() if mass > 0}


def _change(sys: Any, values: Mapping[str, jax.Array], backend: str, scale_inertia: bool) -> Any:
    """The system with the given parameters."""
    new: dict[str, Any] = {}
    if "friction" in values:
        new["geom_friction"] = sys.geom_friction.at[:, 0].set(values["friction"])
    if "gravity" in values:  # brax's pipelines read the first, MuJoCo's the second
        new["gravity"] = sys.gravity.at[2].set(-values["gravity"])
        new["opt.gravity"] = sys.opt.gravity.at[2].set(-values["gravity"])
    heavier = jnp.ones_like(sys.link.inertia.mass)
    for name, i in _links(sys):
        if (key := f"{name}_mass") in values:
            heavier = heavier.at[i].set(values[key] / sys.link.inertia.mass[i])
    wider = heavier if scale_inertia else jnp.ones_like(heavier)
    mass, inertia = sys.link.inertia.mass, sys.link.inertia.i
    if backend in _EFFECTIVE:  # apply the backend's powers once, then set the powers to 1
        mass = mass ** (1 - sys.spring_mass_scale)
        diagonal = jax.vmap(jnp.diagonal)(inertia) ** (1 - sys.spring_inertia_scale)
        inertia = jax.vmap(jnp.diag)(diagonal)
        new["spring_mass_scale"] = jnp.zeros_like(sys.spring_mass_scale)
        new["spring_inertia_scale"] = jnp.zeros_like(sys.spring_inertia_scale)
    new["link.inertia.mass"] = mass * heavier
    new["link.inertia.i"] = inertia * wider[:, None, None]
    new["body_mass"] = sys.body_mass.at[1:].multiply(heavier)
    new["body_inertia"] = sys.body_inertia.at[1:].multiply(wider[:, None])
    return sys.tree_replace(new)


def _links(sys: Any) -> list[tuple[str, int]]:
    """Names of links and their places; a link without a name cannot be changed."""
    return [(name, i) for i, name in enumerate(sys.link_names) if name]


def _has_contacts(sys: Any) -> bool:
    from mujoco import mjx

    with theirs():
        return jax.eval_shape(lambda: mjx.make_data(sys)).ncon > 0


def _brax() -> Any:
    with theirs():
        return import_extra("brax.envs", "brax")
