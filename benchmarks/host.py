"""Environment steps per second of runs on host environments, with learning, against other
projects.

The sides of a task take turns and have the same environment, networks, batches and gradient steps
for an environment step. atari has no peer: what acting and storing add to ale_py's own environment.

    python benchmarks/host.py cartpole [--sbx PYTHON] [--cleanrl SCRIPT --cleanrl-python PYTHON]
    python benchmarks/host.py hopper [--sbx PYTHON]
    python benchmarks/host.py atari

PYTHON is that of an environment with `pip install sbx-rl "gymnasium[classic-control,mujoco]"`;
SCRIPT is CleanRL's `dqn_jax.py` (its package 1.2.0 has it), whose PYTHON needs `pip install torch
"gymnasium[classic-control]<1" "stable-baselines3<2.4" jax flax optax tensorboard`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from arguments import parse
from timing import Lines, Peer, alternate, ratios, settle, table

from bellmax.launch.config.run_config import load
from bellmax.launch.distributed.devices import configure_jax
from bellmax.launch.training.experiment import build

HERE = Path(__file__).parent
# One gradient step for ten environment steps, as in CleanRL's script; one for each on Hopper.
CARTPOLE = "dqn/cartpole --env.name gymnasium/CartPole-v1 --warmup-steps 1000"
CARTPOLE += " --agent.epsilon-start 0.05"
HOPPER = "td3/hopper --warmup-steps 1000 --replay.capacity 100000"
OURS = {
    "cartpole": {
        "bellmax, 10 environments": CARTPOLE,
        "bellmax, 10 environments, lock-step": f"{CARTPOLE} --host.lock-step true",
        "bellmax, 1 environment": f"{CARTPOLE} --env.num-envs 1 --rollout-length 10",
    },
    "hopper": {
        "bellmax, 8 environments": HOPPER,
        "bellmax, 8 environments, lock-step": f"{HOPPER} --host.lock-step true",
        "bellmax, 1 environment": f"{HOPPER} --env.num-envs 1 --updates-per-rollout 1",
    },
}
SBX_ENVS = {"cartpole": (1, 10), "hopper": (1, 8)}
ATARI_ENVS = 8, 32, 128
NETWORKS = {
    "no network": " --agent.network.module blind:Blind",
    "16 units": " --agent.network.torso mlp --agent.network.hidden [16]",
    "nature": "",
}
# Environment steps in a turn.
STEPS = {"cartpole": 20_000, "hopper": 2_000, "atari": 16_384}
SMALL = "--warmup-steps 200 --replay.capacity 2000 --agent.batch-size 8 --agent.network.hidden 8"


def make_side(words, steps, learns=True):
    """Returns `go()`, which takes the given number of environment steps and returns the seconds,
    and the experiment.

    A turn begins after the rollouts that were queued before it, which are not timed; the next side
    begins when the actors have filled their queues again.
    """
    source, *overrides = words.split()
    config = load(source, overrides)
    experiment = build(config)
    share = config.env.num_envs * config.rollout_length
    state = experiment.init()
    advance = experiment.runner.compile(state)
    none, rollouts = np.int32(0), steps // share
    waiting = 2 * (config.host.ahead + 1)
    filled = np.int32(config.warmup_steps // share) if learns else np.int32(20)
    first = advance(state, filled, np.int32(20) if learns else none)
    state = [jax.block_until_ready(first)[0]]

    def take(count):
        turn = (none, np.int32(count)) if learns else (np.int32(count), none)
        state[0] = jax.block_until_ready(advance(state[0], *turn))[0]

    def go():
        take(waiting)
        started = time.perf_counter()
        take(rollouts)
        seconds = time.perf_counter() - started
        settle()
        return seconds

    return go, experiment


def compare(task, arguments):
    """Rows of the sides of cartpole or hopper."""
    steps = arguments.steps or STEPS[task]
    sides, close = {}, []
    for name, words in OURS[task].items():
        words = " ".join([words, *arguments.overrides])
        sides[name], experiment = make_side(words, steps)
        close.append(experiment.close)
    for n in SBX_ENVS[task] if arguments.sbx else ():
        peer = Peer([arguments.sbx, HERE / "sbx_host.py", task, steps, n])
        sides[f"SBX, {n} environment{'s' * (n > 1)}"] = peer.go
        close.append(peer.close)
    if task == "cartpole" and arguments.cleanrl:
        # It prints a line every 100 environment steps.
        command = [arguments.cleanrl_python, "-u", arguments.cleanrl, "--learning-starts"]
        command += ["1000", "--exploration-fraction", "0.001", "--total-timesteps", "1000000"]
        where = tempfile.TemporaryDirectory()
        peer = Lines(command, start="SPS:", count=steps // 100, where=where.name)
        sides["CleanRL"] = peer.go
        close += [peer.close, where.cleanup]
    seconds = alternate(sides, arguments.rounds)
    for stop in close:
        stop()
    return rows_of(seconds, steps, list(sides)[-1])


def rows_of(seconds, steps, base):
    """A row a side; ratios over `base`."""
    return [
        {"side": name, "steps_per_second": steps / statistics.median(taken), "seconds": taken}
        | ratios(seconds[base], taken)
        for name, taken in seconds.items()
    ]


def atari(arguments):
    """Compare the rate of acting and storing, without learning, with that of ale_py alone."""
    steps = arguments.steps or STEPS["atari"]
    rows = []
    for n in arguments.envs:
        common = f"munchausen_dqn/atari --replay.capacity {arguments.capacity} --env.num-envs {n}"
        common += f" --rollout-length {arguments.rollout}"
        bare, stop = make_bare(n, steps)
        alone = f"{n} environments alone"
        sides, close = {alone: bare}, [stop]
        for network, words in NETWORKS.items():
            for actors in 1, 2:
                words_all = f"{common}{words} --host.actors {actors}"
                go, experiment = make_side(words_all, steps, learns=False)
                sides[f"{n}, {network}, {actors} actor{'s' * (actors > 1)}"] = go
                close.append(experiment.close)
        rows += rows_of(alternate(sides, arguments.rounds), steps, alone)
        for stop in close:
            stop()
    return rows


def make_bare(num_envs, steps):
    """Returns `go()`, which takes the given number of random steps in ale_py itself, and
    `close()`.

    The game is played and its frames are stacked as in the preset.
    """
    from ale_py.vector_env import AtariVectorEnv

    games = AtariVectorEnv(
        "breakout",
        num_envs,
        num_threads=min(num_envs, os.cpu_count() or 1),
        repeat_action_probability=0.25,
        full_action_space=False,
        autoreset_mode="NextStep",
        stack_num=4,
        noop_max=1,  # none: it draws fewer
        reward_clipping=False,
        use_fire_reset=False,
    )
    games.reset(seed=0)
    num_actions = int(games.single_action_space.n)
    shape = steps // num_envs, num_envs
    actions = np.random.default_rng(0).integers(num_actions, size=shape).astype(np.int32)

    def go():
        for action in actions:
            games.step(action)

    return go, games.close


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = ["cartpole", "hopper", "atari"]
    parser.add_argument("task", nargs="?", default=tasks[0], choices=tasks)
    text = "options of bellmax train for cartpole and hopper, after --"
    parser.add_argument("overrides", nargs="*", help=text)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="environment steps in a turn")
    parser.add_argument("--rollout", type=int, default=8, help="rollout_length of atari")
    parser.add_argument("--capacity", type=int, default=20_000, help="steps in replay of atari")
    parser.add_argument("--sbx", metavar="PYTHON")
    parser.add_argument("--cleanrl", metavar="SCRIPT", type=Path)
    parser.add_argument("--cleanrl-python", metavar="PYTHON", default=sys.executable)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--envs", type=int, nargs="+", default=ATARI_ENVS, help="of atari")
    small = {"envs": [2], "capacity": 2_000, "overrides": SMALL.split()}
    arguments = parse(parser, words, rounds=1, steps=160, **small)
    configure_jax()  # as the command line does
    task = arguments.task
    rows = atari(arguments) if task == "atari" else compare(task, arguments)
    print(table(rows))
    base = "as many environments alone" if task == "atari" else rows[-1]["side"]
    print(f"\nratios are over {base}; jax {jax.__version__}, {sys.platform}")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
