"""Gradient steps per second of TD3 and ExpectRL at Hopper's shapes, against SBX's TD3.

Batch 256, two layers of 256, observations of 11 numbers, actions of 3; sampling from replay is
part of a step on both sides, the environment is not. One seed.

    python benchmarks/actor_critic.py [--sbx PYTHON]

PYTHON is that of an environment with `pip install sbx-rl`.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from arguments import parse
from dm_env import specs
from timing import Peer, alternate, ratios, table

from bellmax.agents.expectrl import ExpectRLConfig, make_expectrl
from bellmax.agents.td3 import TD3Config, make_td3
from bellmax.envs import EnvSpec, TimeStep, vectorise
from bellmax.launch.replay.ring import make_replay
from bellmax.launch.runners.device_runner import make_runner

SIDES = {
    "td3": (make_td3, TD3Config()),
    "td3, one critic": (make_td3, TD3Config(num_critics=1)),
    "expectrl": (make_expectrl, ExpectRLConfig()),
    "expectrl, auto with 4 heads": (make_expectrl, ExpectRLConfig(alpha="auto")),
}
ACTION = specs.BoundedArray((3,), np.float32, -1.0, 1.0)
CHUNK = 50  # gradient steps for each environment step, whose cost is negligible


class Still(NamedTuple):
    """A task with Hopper's shapes and constant observations."""

    spec: EnvSpec = EnvSpec("benchmark/Still", specs.Array((11,), np.float32), ACTION)

    def reset(self, key):
        no = jnp.zeros((), bool)
        return (), TimeStep(jax.random.normal(key, (11,)), jnp.zeros(()), no, no)

    def step(self, state, action, key):
        del action
        no = jnp.zeros((), bool)
        return state, TimeStep(jax.random.normal(key, (11,)), jnp.ones(()), no, no)


def make_side(make, config, updates, width, layers):
    """Returns `go()`, which takes the given number of gradient steps."""
    env = vectorise(Still(), 1)
    network = dataclasses.replace(config.network, hidden=(width,) * layers)
    agent = make(dataclasses.replace(config, network=network), env.spec)
    replay = make_replay(
        capacity=100_000,
        num_envs=1,
        rollout_length=1,
        sequence_length=2,
        batch_size=config.batch_size,
    )
    runner = make_runner(agent, env, replay, rollout_length=1, updates_per_rollout=CHUNK)
    state = runner.init(jnp.arange(1))
    warmup, rollouts = np.int32(0), np.int32(updates // CHUNK)
    advance = runner.advance.lower(state, warmup, warmup).compile()
    state = [jax.block_until_ready(advance(state, np.int32(2_000), np.int32(2)))[0]]

    def go():
        state[0] = jax.block_until_ready(advance(state[0], warmup, rollouts))[0]

    go()
    return go


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=500, help="gradient steps in a turn")
    parser.add_argument("--width", type=int, default=256, help="of the layers, but of SBX's")
    parser.add_argument("--layers", type=int, default=2, help="of the networks, but of SBX's")
    parser.add_argument("--sbx", metavar="PYTHON")
    parser.add_argument("--out", type=Path)
    arguments = parse(parser, words, rounds=1, updates=50, width=8, layers=1)
    sizes = arguments.updates, arguments.width, arguments.layers
    sides = {name: make_side(*side, *sizes) for name, side in SIDES.items()}
    peer = None
    if arguments.sbx:
        script = Path(__file__).with_name("sbx_td3.py")
        peer = Peer([arguments.sbx, script, arguments.updates])
        sides["sbx td3"] = peer.go
    base = "sbx td3" if peer else "td3"
    seconds = alternate(sides, arguments.rounds)
    if peer:
        peer.close()
    rows = []
    for name, taken in seconds.items():
        rate = arguments.updates / statistics.median(taken)
        row = {"side": name, "gradient_steps_per_second": rate, "seconds": taken}
        rows.append(row | ratios(seconds[base], taken))
    print(table(rows))
    print(f"\nratios are over {base}; jax {jax.__version__}, {sys.platform}")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
