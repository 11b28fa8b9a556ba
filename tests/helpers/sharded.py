"""The same seed on one and on eight devices; `python -m helpers.sharded CASE...` compares them."""

import re
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np

from bellmax.agents.byol_explore import BYOLExploreConfig, make_byol_explore
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.agents.pqn import PQNConfig, make_pqn
from bellmax.agents.td3 import TD3Config, make_td3
from bellmax.envs import CartPole, DeepSea, Pendulum, PixelCatch, vectorise
from bellmax.envs.host import HostVector
from bellmax.launch.replay.ring import make_replay
from bellmax.launch.runners.device_runner import make_runner
from bellmax.launch.runners.sharding import make_mesh
from bellmax.networks import ContinuousNetworkConfig, NetworkConfig, RecurrentNetworkConfig
from helpers.host_runners import make_host
from helpers.host_tasks import JaxBatch

N, SLOTS = 8, 200
SMALL = {
    "network": NetworkConfig(hidden=(16,)),
    "batch_size": 16,
    "epsilon_steps": 500,
    "adam_epsilon": 1e-2,  # otherwise Adam takes a full step along a gradient of rounding errors
}
RECURRENT = RecurrentNetworkConfig(hidden=(16,), latent_size=8, memory_size=8, head_hidden=())
WIDE = ContinuousNetworkConfig(hidden=(16,))
DQN = MunchausenDQNConfig(**SMALL)
CASES = {
    "priorities": (CartPole(), make_munchausen_dqn, DQN, {"prioritised": True}),
    "frames": (PixelCatch(), make_munchausen_dqn, DQN, {"frame_stack": 2}),
    "td3": (Pendulum(), make_td3, TD3Config(network=WIDE, batch_size=16, random_steps=80), {}),
    "pqn": (
        CartPole(),
        make_pqn,
        PQNConfig(network=SMALL["network"], batch_size=N, epsilon_steps=500),
        {},
    ),
    "on_policy": (
        DeepSea(size=5),
        make_byol_explore,
        BYOLExploreConfig(network=RECURRENT, batch_size=N, horizon=2, policy_loss="ppo"),
        {},
    ),
}


def replay_of(agent, changes, mesh):
    spec = agent.replay
    if spec.on_policy:
        return None
    return make_replay(
        capacity=N * SLOTS,
        num_envs=N,
        rollout_length=2,
        sequence_length=spec.sequence_length,
        batch_size=spec.batch_size,
        sharded=mesh is not None,
        **changes,
    )


def run(case, mesh):
    """State and interval after the runs, and the compiled program."""
    env, make, config, changes = CASES[case]
    vector = vectorise(env, N, frame_stack=changes.get("frame_stack", 1))
    agent = make(config, vector.spec)
    warmup = 0 if agent.replay.on_policy else 20
    phases = {"rollout_length": 2, "updates_per_rollout": 2}
    replay = replay_of(agent, changes, mesh)
    runner = make_runner(agent, vector, replay, num_seeds=2, mesh=mesh, **phases)
    state = runner.init(jnp.array([3, 4]))
    advance = runner.compile(state)
    state, interval = advance(state, np.int32(warmup), np.int32(10))
    state, interval = advance(state, np.int32(0), np.int32(5))
    return (state, interval), advance.as_text()


def run_host(mesh):
    env = CartPole()
    agent = make_munchausen_dqn(DQN, env.spec)
    runner = make_host(
        agent,
        env.spec.observation,
        lambda: HostVector(JaxBatch(env, N, 3)),
        replay_of(agent, {}, mesh),
        num_envs=N,
        rollout_length=2,
        updates_per_rollout=2,
        mesh=mesh,
        device=None if mesh is None else jax.devices()[7],
    )
    state = runner.init(jnp.array([3]))
    return runner.compile(state)(state, 20, 10), ""


def compare(case):
    """Raise AssertionError if the results of eight devices and of one differ."""
    mesh = make_mesh(8)
    runs = [run_host(m) if case == "host" else run(case, m) for m in (None, mesh)]
    (one, _), ((state, interval), program) = runs
    leaves = jax.tree_util.tree_leaves_with_path(one)
    for (path, x), y in zip(leaves, jax.tree.leaves((state, interval)), strict=True):
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            name = jax.tree_util.keystr(path)
            x, y = np.asarray(x, float), np.asarray(y, float)
            # On several devices the storage has an axis of environments.
            y = y.reshape(x.shape) if "storage" in name else y
            np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-4, err_msg=name)
    if state.replay != ():
        storage = state.replay.storage.observation
        assert storage.sharding.spec[2] == "devices", storage.sharding
        assert storage.addressable_shards[0].data.shape[2] == N // 8
        # A sample moves the batch between devices, and never the replay.
        moved = re.findall(r"= [a-z0-9]+\[([0-9,]+)\]\S* all-gather\(", program)
        sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in moved]
        assert max(sizes, default=0) < N * SLOTS, moved
    assert jax.tree.leaves(state.learner.params)[0].sharding.is_fully_replicated


def main(cases):
    """Compare every case, and print which are equal and how the others fail."""
    assert jax.device_count() == 8
    for case in cases:
        try:
            compare(case)
            print(f"{case}: equal", flush=True)
        except Exception:
            print(f"{case}: {traceback.format_exc()}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
