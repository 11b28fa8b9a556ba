"""SBX's TD3 on Gymnasium's Hopper-v5, one seed, evaluated on the way.

`host_learning.py --sbx PYTHON` starts it under the Python that has sbx-rl; it needs no bellmax.

    PYTHON benchmarks/sbx_learning.py SEED STEPS EVERY WARMUP OUT.json
"""

import argparse
import json
from pathlib import Path

import gymnasium
import numpy as np
from arguments import import_peer, parse

INSTALL = 'sbx-rl "gymnasium[mujoco]"'


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"seed": 0, "steps": 50_000, "every": 5_000, "warmup": 5_000}
    for name, default in sizes.items():
        parser.add_argument(name, type=int, nargs="?", default=default)
    parser.add_argument("out", type=Path, nargs="?", help="file of (step, return)")
    arguments = parse(parser, words, steps=400, every=200, warmup=200)
    steps, every = arguments.steps, arguments.every
    sbx = import_peer("sbx", INSTALL)
    evaluate_policy = import_peer("stable_baselines3.common.evaluation", INSTALL).evaluate_policy
    Monitor = import_peer("stable_baselines3.common.monitor", INSTALL).Monitor
    NormalActionNoise = import_peer("stable_baselines3.common.noise", INSTALL).NormalActionNoise
    model = sbx.TD3(
        "MlpPolicy",
        Monitor(gymnasium.make("Hopper-v5")),
        learning_rate=3e-4,
        buffer_size=1_000_000,
        learning_starts=arguments.warmup,
        batch_size=256,
        policy_delay=2,
        action_noise=NormalActionNoise(np.zeros(3), 0.1 * np.ones(3)),
        policy_kwargs={"net_arch": [256, 256]},
        seed=arguments.seed,
    )
    held_out = Monitor(gymnasium.make("Hopper-v5"))
    held_out.reset(seed=10_000 + arguments.seed)
    rows = []
    for step in range(every, steps + 1, every):
        model.learn(every, reset_num_timesteps=False)
        value, _ = evaluate_policy(model, held_out, n_eval_episodes=10)
        rows.append((step, float(value)))
        print(*rows[-1], flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
