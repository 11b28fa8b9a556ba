"""Folders of runs to plot."""

import json

import numpy as np


def make_run(folder, *, agent="dqn", env="bellmax/CartPole", seeds=(0,), rate=1e-3, **more):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"seed: {seeds[0]}\nseeds: {len(seeds)}\n"
        f"agent: {{name: {agent}, learning_rate: {rate}}}\nenv: {{name: {env}}}\n"
    )
    rows = []
    for step in more.get("steps", range(0, 100_001, 5_000)):
        for seed in seeds:
            noise = np.random.default_rng([seed, step, len(agent)]).normal(scale=25)
            value = 400 / (1 + np.exp((50_000 - step - 3000 * len(agent)) / 1e4)) + 20 + noise
            row = {"kind": "evaluation", "step": step, "seed": seed, "episode_return": value}
            rows.append({**row, "note": None})
            rows.append({"kind": "train", "step": step, "seed": seed, "loss": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
