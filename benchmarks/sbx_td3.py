"""SBX's TD3 at Hopper's shapes; each line on stdin is a number of gradient steps.

`actor_critic.py --sbx PYTHON` starts it under the Python that has sbx-rl; it needs no bellmax.

    PYTHON benchmarks/sbx_td3.py UPDATES
"""

import argparse
import sys

import gymnasium
import jax
import numpy as np
from arguments import import_peer, parse


class Still(gymnasium.Env):
    """A task with Hopper's shapes and constant observations."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.normal(size=11).astype(np.float32), {}

    def step(self, action):
        return self.np_random.normal(size=11).astype(np.float32), 1.0, False, False, {}


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("updates", type=int, nargs="?", default=500, help="in a turn")
    updates = parse(parser, words, updates=10).updates
    TD3 = import_peer("sbx", "sbx-rl").TD3
    numbers = {"learning_rate": 3e-4, "batch_size": 256, "policy_delay": 2, "buffer_size": 100_000}
    shape = {"net_arch": [256, 256]}
    model = TD3("MlpPolicy", Still(), **numbers, policy_kwargs=shape, learning_starts=2_000)
    model.learn(2_000)  # fills replay
    model.train(updates, 256)
    jax.block_until_ready(model.policy.qf_state.params)
    print("done", flush=True)
    for _ in sys.stdin:
        model.train(updates, 256)
        jax.block_until_ready(model.policy.qf_state.params)
        print("done", flush=True)


if __name__ == "__main__":
    main()
