"""Factories that return environment objects of JAX suites, as their documentation makes them."""

import types

import jax.numpy as jnp


def gymnax_pair(**options):
    import gymnax

    env, params = gymnax.make("Pendulum-v1")
    return env, params.replace(**options)


def gymnax_env():
    from gymnax.environments import CartPole

    return CartPole()


def gymnax_wrapped():
    import gymnax
    from gymnax.wrappers import FlattenObservationWrapper

    env, params = gymnax.make("Catch-bsuite")
    return FlattenObservationWrapper(env), params


def gymnax_own():
    """A user's class: CartPole with a longer limit."""
    from gymnax.environments import CartPole

    class Long(CartPole):
        @property
        def default_params(self):
            return super().default_params.replace(max_steps_in_episode=7)

    return Long()


def brax_own(dict_observation=False):
    """A user's class without physics, with a counter in `info`."""
    from brax.envs.base import Env, State

    class Count(Env):
        observation_size, action_size, backend = 1, 2, "mine"

        def reset(self, rng):
            seen = jnp.zeros(1)
            zero = jnp.zeros(())
            shown = {"state": seen} if dict_observation else seen
            return State(seen, shown, zero, zero, {}, {"count": jnp.zeros((), jnp.int32)})

        def step(self, state, action):
            count = state.info["count"] + 1
            seen = state.pipeline_state + action.sum()
            info = {"count": count}
            finished = (count >= 3) * 1.0
            return State(seen, seen, count * 1.0, finished, {}, info)

    return Count()


def brax_dict():
    return brax_own(dict_observation=True)


def brax_wrapped():
    from brax.envs.wrappers.training import EpisodeWrapper

    return EpisodeWrapper(brax_own(), 100, 1)


def xminigrid_pair():
    import xminigrid

    return xminigrid.make("MiniGrid-Empty-5x5", max_steps=9)


def xminigrid_wrapped():
    from xminigrid.wrappers import GymAutoResetWrapper

    env, params = xminigrid_pair()
    return GymAutoResetWrapper(env), params


def craftax_env():
    from craftax.craftax_env import make_craftax_env_from_name

    return make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=True)


def jumanji_env():
    from jumanji.environments import Snake

    return Snake(num_rows=4, num_cols=4, time_limit=9)


def navix_env():
    import navix

    return navix.make("Navix-Empty-5x5-v0", max_steps=7)


def pgx_env():
    import pgx

    return pgx.make("tic_tac_toe")


def playground_own(ends_at=100, **config):
    """A user's class without physics, whose observation counts in a dict; it writes to `info`."""
    import ml_collections
    from mujoco_playground import MjxEnv, State

    class Count(MjxEnv):
        action_size, mj_model, mjx_model, xml_path = 2, None, None, ""

        def reset(self, rng):
            zero = jnp.zeros(())
            shown = {"state": jnp.zeros(3), "privileged_state": jnp.zeros(5)}
            return State(zero, shown, zero, zero, {}, {"count": jnp.zeros((), jnp.int32)})

        def step(self, state, action):
            state.info["count"] += 1
            shown = {**state.obs, "state": state.obs["state"] + action.sum()}
            over = (state.info["count"] >= ends_at) * 1.0
            return state.replace(obs=shown, reward=state.info["count"] * 1.0, done=over)

    fields = {"ctrl_dt": 0.1, "sim_dt": 0.1, "episode_length": 6, "action_repeat": 1, **config}
    return Count(ml_collections.ConfigDict(fields))


def three_values():
    return types.SimpleNamespace(reset=0, step=0), 1, 2
