"""brax's tasks through the adapter. Tests share compiled programs, because compiling is slow."""

import copy
import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs import Parametric, Randomised, list_names, make, vectorise
from bellmax.envs.options import install_command
from helpers.compiling import QUICK

pytest.importorskip("brax")
mujoco = pytest.importorskip("mujoco")
EULER_DAMPING = int(mujoco.mjtDisableBit.mjDSBL_EULERDAMP)
STEPS = 60
SLOW = pytest.mark.slow  # compiling a robot with contacts takes long
MASSES = "torso_mass", "thigh_mass", "leg_mass", "foot_mass"
PARAMETERS = {
    "inverted_pendulum": ("gravity", "cart_mass", "pole_mass"),
    "hopper": ("friction", "gravity", *MASSES),
}


@functools.cache
def env_of(task, **options):
    return make(f"brax/{task}", **dict(options))


def copies(env):
    """How many copies run at once: two, and one for each parameter."""
    return len(env.parameters) + 2


@functools.cache
def compiled(task, **options):
    """Runs copies for STEPS steps: (keys [N], actions [T, N, A], values {[N]}) -> [T, N]."""
    env = env_of(task, **options)
    num = copies(env)

    def run(key, actions, values):
        changed = env.with_parameters(values)
        state, first = changed.reset(key)
        _, ts = jax.lax.scan(lambda s, a: changed.step(s, a, key), state, actions)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, ts)

    batched = jax.jit(jax.vmap(run, in_axes=(0, 1, 0), out_axes=1))
    values = {name: jnp.ones(num) for name in env.parameters}
    shape = (STEPS, num, *env.spec.action.shape)
    keys = jax.random.split(jax.random.key(0), num)
    return batched.lower(keys, jnp.zeros(shape), values).compile(QUICK)


def nominal(env, num):
    return {name: jnp.full(num, value, jnp.float32) for name, value in env.parameters.items()}


def actions_of(env, num, seed=0):
    """The same random actions for every copy, [T, N, A]."""
    shape = (STEPS, 1, *env.spec.action.shape)
    actions = jax.random.uniform(jax.random.key(seed), shape, minval=-1.0, maxval=1.0)
    return jnp.broadcast_to(actions, (STEPS, num, *shape[2:]))


def same_keys(num, seed=0):
    return jax.random.wrap_key_data(
        jnp.broadcast_to(jax.random.key_data(jax.random.key(seed))[None], (num, 2))
    )


@pytest.mark.parametrize(
    ("task", "size", "actions", "backend"),
    [
        pytest.param("halfcheetah", 17, 6, "mjx", marks=SLOW),
        ("hopper", 11, 3, "positional"),
        pytest.param("humanoidstandup", 244, 17, "spring", marks=SLOW),
        ("inverted_pendulum", 4, 1, "generalized"),
        ("reacher", 11, 2, "spring"),
        pytest.param("walker2d", 17, 6, "spring", marks=SLOW),
    ],
)
def test_shapes(task, size, actions, backend):
    env = env_of(task, backend=backend)
    assert env.spec.observation.shape == (size,) and env.spec.time_limit == 1000
    assert env.spec.action.shape == env.spec.action.minimum.shape == (actions,)
    assert np.all(env.spec.action.minimum == -1) and np.all(env.spec.action.maximum == 1)
    assert isinstance(env, Parametric) and "gravity" in env.parameters
    key = jax.random.key(0)
    state, first = jax.eval_shape(env.reset, key)
    new, ts = jax.eval_shape(env.step, state, jnp.zeros(actions), key)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), (state, first)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), (new, ts)
    )
    assert (ts.observation.shape, ts.observation.dtype) == ((size,), np.float32)
    assert (ts.reward.dtype, ts.terminated.dtype, ts.truncated.dtype) == ("float32", "bool", "bool")


@pytest.mark.parametrize("task", ["inverted_pendulum", pytest.param("hopper", marks=SLOW)])
def test_every_parameter_changes_the_motion(task):
    env = env_of(task, backend="spring")
    names = list(env.parameters)
    assert names == [*PARAMETERS[task]]
    num = copies(env)
    values = nominal(env, num)
    for i, name in enumerate(names, start=2):
        values[name] = values[name].at[i].multiply(0.5)
    ts = compiled(task, backend="spring")(same_keys(num), actions_of(env, num), values)
    observation = np.asarray(ts.observation)
    np.testing.assert_array_equal(observation[:, 0], observation[:, 1])
    assert np.all(np.isfinite(observation))
    for i, name in enumerate(names, start=2):
        assert np.max(abs(observation[20, i] - observation[20, 0])) > 1e-2, name
        np.testing.assert_allclose(observation[0, i], observation[0, 0], atol=1e-6)


@SLOW
def test_hopper_terminates_where_it_falls():
    env = env_of("hopper", backend="spring")
    num = copies(env)
    keys = jax.random.split(jax.random.key(1), num)
    ts = compiled("hopper", backend="spring")(keys, actions_of(env, num), nominal(env, num))
    height, angle = ts.observation[..., 0], ts.observation[..., 1]
    fallen = (height <= 0.7) | (abs(angle) >= 0.2)
    np.testing.assert_array_equal(ts.terminated, fallen)
    assert np.all(np.any(ts.terminated, axis=0)) and not np.any(ts.terminated[:20])
    assert not np.any(ts.truncated)


@pytest.mark.slow
def test_motion_is_decided_by_the_key():
    env = env_of("inverted_pendulum", backend="spring")
    num = copies(env)
    run, actions = compiled("inverted_pendulum", backend="spring"), actions_of(env, num)
    keys = jax.random.split(jax.random.key(2), num)
    first, again = (run(keys, actions, nominal(env, num)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert len(np.unique(first.observation[0, :, 0])) == num


def test_a_batch_of_parameters_equals_each_alone():
    env = env_of("inverted_pendulum", backend="spring")
    num = copies(env)
    values = nominal(env, num)
    values["pole_mass"] = jnp.array([1.0, 5.0, 31.0, 5.0, 5.0])
    actions = actions_of(env, num)
    run = compiled("inverted_pendulum", backend="spring")
    batch = run(same_keys(num), actions, values)
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1].repeat(num), values)  # in its own batch
        ts = run(same_keys(num), actions, one)
        np.testing.assert_allclose(
            batch.observation[:, i], ts.observation[:, 0], rtol=1e-4, atol=1e-5
        )
    assert np.ptp(batch.observation[STEPS, :, 0]) > 0.01


def test_no_values_give_the_plain_environment_and_nothing_persists():
    env = env_of("inverted_pendulum", backend="spring")
    lighter = env.with_parameters({"pole_mass": 1.0})
    assert lighter.with_parameters({"cart_mass": 5.0}).changed.keys() == {"cart_mass"}
    assert lighter.parameters == env.parameters

    def program(some):
        closed = jax.make_jaxpr(lambda key: some.step(*some.reset(key)[:1], jnp.ones(1), key))(
            jax.random.key(0)
        )
        return re.sub("0x[0-9a-f]+", "", str(closed.jaxpr)), closed.consts

    (plain, constants), (again, others) = program(env), program(lighter.with_parameters({}))
    assert plain == again and plain != program(lighter)[0]
    jax.tree.map(np.testing.assert_array_equal, constants, others)


@pytest.mark.parametrize("scale_inertia", [True, False])
def test_inertia_follows_mass_if_asked_to(scale_inertia):
    env = env_of("walker2d", backend="spring", scale_inertia=scale_inertia)
    sys = env.env.sys
    heavier = env.with_parameters({"thigh_left_mass": 3 * env.parameters["thigh_left_mass"]})
    new, left = heavier._current().sys, sys.link_names.index("thigh_left")
    factor = np.ones(7)
    factor[left] = 3.0
    inertia = factor if scale_inertia else np.ones(7)
    np.testing.assert_allclose(new.body_mass[1:], factor * sys.body_mass[1:], rtol=1e-6)
    np.testing.assert_allclose(
        new.body_inertia[1:], inertia[:, None] * sys.body_inertia[1:], rtol=1e-6
    )
    # Effective values: this model's author uses masses unchanged and all inertias as 1.
    np.testing.assert_allclose(new.link.inertia.mass, factor * sys.link.inertia.mass, rtol=1e-6)
    np.testing.assert_allclose(
        new.link.inertia.i, inertia[:, None, None] * np.eye(3)[None].repeat(7, 0), rtol=1e-6
    )
    assert new.spring_mass_scale == new.spring_inertia_scale == 0


def mujoco_motion(env, start, actions, flag, changed):
    """MuJoCo's own simulation of an inverted pendulum, [T, 4]."""
    model = copy.copy(env.env.sys.mj_model)
    model.opt.disableflags |= flag
    model.opt.gravity[2] = -changed.get("gravity", 9.81)
    for name in ("cart", "pole"):
        body = model.body(name).id
        mass = changed.get(f"{name}_mass", model.body_mass[body])
        if env.scale_inertia:
            model.body_inertia[body] *= mass / model.body_mass[body]
        model.body_mass[body] = mass
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = start[:2], start[2:]
    rows = []
    for action in actions:
        data.ctrl[:] = 3 * np.clip(action, -1, 1)
        for _ in range(env.env._n_frames):
            mujoco.mj_step(model, data)
        rows.append(np.concatenate([data.qpos, data.qvel]))
    return np.array(rows)


@SLOW
# generalized damps joints explicitly, as MuJoCo does with this flag; its limits are its own, and
# the cart runs into them after a few steps.
@pytest.mark.parametrize(
    ("backend", "scale_inertia", "flag", "steps", "tolerance"),
    [
        ("mjx", False, 0, 20, 2e-3),
        ("generalized", True, EULER_DAMPING, 3, 1e-4),
    ],
)
def test_changed_pendulum_moves_like_mujocos(backend, scale_inertia, flag, steps, tolerance):
    options = {"backend": backend, "scale_inertia": scale_inertia}
    env = env_of("inverted_pendulum", **options)
    cases = [{}, {"pole_mass": 31.0}, {"cart_mass": 1.0}, {"gravity": 3.0, "pole_mass": 1.0}]
    num = copies(env)
    values = nominal(env, num)
    for i, case in enumerate(cases):
        for name, value in case.items():
            values[name] = values[name].at[i].set(value)
    actions = actions_of(env, num) * 3  # beyond the bounds: both clip
    ts = compiled("inverted_pendulum", **options)(same_keys(num), actions, values)
    motions = []
    for i, case in enumerate(cases):
        seen = np.asarray(ts.observation[:, i], np.float64)
        wanted = mujoco_motion(env, seen[0], np.asarray(actions[:, i]), flag, case)
        motions.append(wanted[:steps])
        np.testing.assert_allclose(
            seen[1 : steps + 1], wanted[:steps], rtol=tolerance, atol=tolerance, err_msg=str(case)
        )
    for other in motions[1:]:  # the difference from the plain motion exceeds the tolerance
        assert np.max(abs(other - motions[0])) > 5 * tolerance


@SLOW
def test_stream_truncates_terminates_and_draws_new_starts():
    env = env_of("inverted_pendulum", backend="spring")
    vector = vectorise(Randomised(env, {"pole_mass": (2.0, 8.0)}), 2)
    late = jnp.array([0, 996], jnp.int32)
    steps = 100

    def run(key):
        state, first = vector.reset(key)
        brax_state = state.env_state.env_state._replace(time=late)
        state = state._replace(env_state=state.env_state._replace(env_state=brax_state))

        def body(state, key):
            state, ts = vector.step(state, jnp.full((2, 1), 0.02), key)
            return state, (ts, state.env_state.parameters["pole_mass"])

        return jax.lax.scan(body, state, jax.random.split(key, steps))[1]

    ts, mass = jax.jit(run).lower(jax.random.key(0)).compile(QUICK)(jax.random.key(0))
    angle = np.asarray(ts.observation[..., 1])
    # The second one is at 1000 after four steps, and still up.
    np.testing.assert_array_equal(np.flatnonzero(ts.truncated[:, 1]), [3])
    assert abs(angle[3, 1]) < 0.2 and ts.discount[3, 1] == 1.0
    assert ts.is_last[3, 1] and ts.is_first[4, 1] and mass[4, 1] != mass[3, 1]
    # Both fall in the end, which terminates the episode, and are reset.
    fell = np.asarray(ts.discount == 0.0)
    np.testing.assert_array_equal(fell, (abs(angle) > 0.2) & ~np.asarray(ts.is_first))
    assert np.all(fell.any(0)) and not np.any(ts.truncated & fell)
    assert np.all(abs(angle[ts.is_first]) <= 0.011) and np.all((mass >= 2.0) & (mass <= 8.0))
    for column in range(2):
        for episode in np.split(
            np.asarray(mass)[:, column], np.flatnonzero(ts.is_first[:, column])
        ):
            assert len(np.unique(episode)) == 1


@SLOW
def test_actions_are_clipped_in_the_reward_too():
    env = env_of("hopper", backend="spring")
    num = copies(env)
    size = jnp.array([5.0, 1.0, 0.5] + [0.0] * (num - 3))
    actions = jnp.ones((STEPS, num, 3)) * size[None, :, None]
    ts = compiled("hopper", backend="spring")(same_keys(num), actions, nominal(env, num))
    assert ts.reward[1, 0] == ts.reward[1, 1] != ts.reward[1, 2]


def test_options_reach_the_task():
    env = make("brax/hopper", ctrl_cost_weight=0.5, time_limit=7, n_frames=2)
    assert env.env._ctrl_cost_weight == 0.5 and env.spec.time_limit == 7
    np.testing.assert_allclose(env.env.dt, 0.004, rtol=1e-6)


def test_names_are_listed_by_one_line():
    assert "brax/<task>" in list_names()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("brax/hoper", {}, "unknown task 'hoper' of brax; did you mean hopper"),
        ("brax/hopper", {"backend": "sprig"}, "got 'sprig'; did you mean spring"),
        (
            "brax/hopper",
            {"ctrl_cost": 1.0},
            "did you mean ctrl_cost_weight",
        ),
        ("brax/hopper", {"time_limit": "x"}, "time_limit must be a whole number, got 'x'"),
        ("brax/hopper", {"healthy_reward": "x"}, "healthy_reward must be a number, got 'x'"),
        ("brax/hopper", {"time_limit": 0}, "time_limit must be at least 1 environment step, got 0"),
    ],
)
def test_mistakes_are_explained(name, options, words):
    with pytest.raises(UserError) as error:
        make(name, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_unknown_parameter_is_explained():
    with pytest.raises(UserError, match="unknown parameter 'thigh' of .*; did you mean thi"):
        env_of("walker2d", backend="spring", scale_inertia=True).with_parameters({"thigh": 1.0})


def test_missing_brax_is_explained(monkeypatch):
    real = importlib.import_module

    def without(name):
        if name.startswith("brax"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="brax")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(UserError) as error:
        make("brax/hopper")
    assert str(error.value) == f"brax is not installed: {install_command('brax')}"
