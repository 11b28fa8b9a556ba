"""Reward against KL of the example's losses, over betas and seeds: numbers, plot and table.

    python examples/sequence/frontier.py --out docs/results/sequence_frontier

writes the .json after each program, continues from it, and then draws .png and .svg and prints the
table. About three minutes of one core.
"""

import argparse
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from train import LOSSES, best_possible, make_problem, make_train_of, sizes_of

SEEDS, STEPS = 3, 150
AT = (1.4, 1.6, 1.9)  # KL, in nats, that all losses reach
# Each loss has a scale of its own; the grids reach from KL of a fraction of a nat to several.
BETAS = {
    "dpo": (0.1, 0.2, 0.35, 0.6, 1.0),
    "ipo": (0.02, 0.04, 0.07, 0.12, 0.2),
    "slic": (0.05, 0.1, 0.2, 0.35, 0.6),
    "truncated_quadratic": (0.04, 0.08, 0.14, 0.24, 0.4),
    "exponential": (0.05, 0.1, 0.18, 0.3, 0.5),
    "rloo": (0.01, 0.02, 0.035, 0.06, 0.1),
    "copg_offline": (0.01, 0.02, 0.035, 0.06, 0.1),
    "grpo": (0.01, 0.02, 0.035, 0.06, 0.1),
    "online_ipo": (0.03, 0.06, 0.1, 0.2, 0.4),
    "grpo_returns": (0.01, 0.02, 0.035, 0.06, 0.1),
    "nash_md": (0.03, 0.06, 0.1, 0.2, 0.4),
    "bond": (0.015625, 0.03125, 0.0625, 0.125, 0.25),
}
GPO = ("dpo", "ipo", "slic", "truncated_quadratic", "exponential")
# Those that share a program; the last two draw more strings than others.
PROGRAMS = [GPO, ("rloo", "grpo", "grpo_returns", "online_ipo"), ("copg_offline",)]
PROGRAMS += [("nash_md",), ("bond",)]


def run(problem, names, seeds, steps):
    """Rewards and KLs [betas, seeds] of losses that learn from strings of one kind, by name."""
    keys = jax.random.split(jax.random.key(1), seeds)
    train = jax.vmap(make_train_of(problem, names, steps), (0, None, None))
    all_betas = jax.vmap(train, (None, 0, None))
    betas = jnp.asarray([BETAS[name] for name in names])
    rewards, kls = jax.jit(jax.vmap(all_betas, (None, 0, 0)))(keys, betas, jnp.arange(len(names)))
    found = {}
    for name, reward, kl in zip(names, rewards, kls, strict=True):
        found[name] = {"betas": BETAS[name], "reward": reward.tolist(), "kl": kl.tolist()}
        found[name]["data"] = LOSSES[name][1]
    return found


def at_kl(kls, values, kl):
    """A value where the curve of one seed crosses a KL, or nan outside its range."""
    order = np.argsort(kls)
    return np.interp(kl, kls[order], values[order], left=np.nan, right=np.nan)


def shortfall(results, name):
    """How far rewards are below the best possible at their own KL, [seeds, betas], and the KLs."""
    best = {key: np.array(value) for key, value in results["best possible"].items()}
    kls, rewards = (np.array(results[name][key]).T for key in ("kl", "reward"))
    return kls, at_kl(best["kl"], best["reward"], kls) - rewards


def table(results):
    """Lines of Markdown: reward below the best possible at equal KL, and the beta that leads there.

    What is interpolated is the shortfall, which is smooth, not the reward, which is concave.
    """
    best = {key: np.array(value) for key, value in results["best possible"].items()}
    heads = " | ".join(f"KL {kl:g} (best {at_kl(best['kl'], best['reward'], kl):.3f})" for kl in AT)
    lines = [
        f"| loss | strings of | {heads} | beta at KL {AT[1]:g} |",
        "|---" * (len(AT) + 3) + "|",
    ]
    for name in BETAS:
        kls, short = shortfall(results, name)
        cells = []
        for kl in AT:
            values = [at_kl(k, s, kl) for k, s in zip(kls, short, strict=True)]
            spread = f"{np.mean(values):.3f} ({np.min(values):.3f} to {np.max(values):.3f})"
            cells.append("not reached" if np.isnan(values).any() else spread)
        betas = np.log(results[name]["betas"])
        crossing = np.mean([np.exp(at_kl(k, betas, AT[1])) for k in kls])
        data = "the policy" if results[name]["data"] == "online" else "the reference"
        lines.append(f"| {name} | {data} | {' | '.join(cells)} | {crossing:.2g} |")
    return lines


def draw(results, out):
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.5))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, sharex=True)
    colours = colormaps["tab20"].colors
    best = results["best possible"]
    groups = GPO, [name for name in BETAS if name not in GPO]
    for column, names in enumerate(groups):
        axes[column].plot(best["kl"], best["reward"], color="black", label="best possible")
        for i, name in enumerate(names):
            kls, short = shortfall(results, name)
            rewards = np.array(results[name]["reward"]).T
            order = np.argsort(kls.mean(0))
            # The third panel has all losses: one family dashed, the others solid.
            colour, line = colours[2 * i], ("--", "-")[column]
            for panel, values in ((axes[column], rewards), (axes[2], short)):
                means = kls.mean(0)[order], values.mean(0)[order]
                panel.plot(*means, line, color=colour, label=name)
            axes[column].scatter(kls, rewards, s=8, color=colour)
        axes[column].legend(fontsize=8)
        axes[column].set_ylim(0.4, 0.85)
    for panel in axes:
        panel.set_xlim(0.0, 6.6)
        panel.set_xlabel("KL from the reference, nats")
    axes[0].set_ylabel("expected reward")
    axes[0].set_title("one family on the same pairs (GPO)")
    axes[1].set_title("other losses")
    axes[2].set_yscale("log")
    axes[2].set_title("reward below the best possible at that KL")
    figure.tight_layout()
    for suffix in ("png", "svg"):
        figure.savefig(
            out.with_suffix(f".{suffix}"),
            dpi=110,
            metadata={"Date": None} if suffix == "svg" else None,
        )


def write(out, small):
    """Train what `out`.json lacks, write that file and the pictures, and print the table."""
    sizes = (2, 2) if small else (SEEDS, STEPS)
    file = out.with_suffix(".json")
    results = json.loads(file.read_text()) if file.exists() else {}
    # Without layers of attention, because compiling takes most of a small run.
    problem = make_problem(sizes_of(small)._replace(layers=0) if small else sizes_of(small))
    rewards, kls = best_possible(problem, np.geomspace(0.01, 2.0, 300))
    results["best possible"] = {"reward": rewards.tolist(), "kl": kls.tolist()}
    for names in PROGRAMS:
        if any(results.get(n, {}).get("betas") != list(BETAS[n]) for n in names):
            results |= run(problem, names, *sizes)
            file.write_text(json.dumps(results) + "\n")
            for name in names:
                print(name, np.round(results[name]["kl"], 2).tolist(), flush=True)
    draw(results, out)
    print("\n".join(table(results)))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="path without a suffix; by default sequence_frontier here")
    parser.add_argument("--small", action="store_true", help="seconds long, and shows nothing")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        name = Path(scratch if arguments.small else "", "sequence_frontier")
        write(Path(arguments.out or name), arguments.small)


if __name__ == "__main__":
    main()
