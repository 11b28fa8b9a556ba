"""SBX's TD3 on Gymnasium's Hopper-v5, one seed, evaluated on the way.

`host_learning.py --sbx PYTHON` starts it under the Python that has sbx-rl; it needs no bellmax.

    PYTHON benchmarks/sbx_learning.py SEED STEPS EVERY WARMUP OUT.json
"""

import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
from sbx import TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise


def main():
    seed, steps, every, warmup = map(int, sys.argv[1:5])
    model = TD3(
        "MlpPolicy",
        Monitor(gymnasium.make("Hopper-v5")),
        learning_rate=3e-4,
        buffer_size=1_000_000,
        learning_starts=warmup,
        batch_size=256,
        policy_delay=2,
        action_noise=NormalActionNoise(np.zeros(3), 0.1 * np.ones(3)),
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
    )
    held_out = Monitor(gymnasium.make("Hopper-v5"))
    held_out.reset(seed=10_000 + seed)
    rows = []
    for step in range(every, steps + 1, every):
        model.learn(every, reset_num_timesteps=False)
        value, _ = evaluate_policy(model, held_out, n_eval_episodes=10)
        rows.append((step, float(value)))
        print(*rows[-1], flush=True)
    Path(sys.argv[5]).write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
