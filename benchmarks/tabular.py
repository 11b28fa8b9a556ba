"""Distributional Retrace and VA-learning on random finite MDPs, whose answers are known exactly.

    python benchmarks/tabular.py [distributions] [advantage] [contraction]

Prints each study's tables as markdown and writes its plots, PNG and SVG. Step sizes are chosen
on MDPs 100 and above; shown are MDPs 0 to 29. docs/results/tabular.md says what each number is.
"""

import argparse
import pathlib
import time

import numpy as np
import tabular_advantage as advantage
import tabular_contraction as contraction
import tabular_distributions as distributions
from arguments import SCRATCH, parse
from report import (
    draw,
    dress,
    interval,
    legend,
    median_of,
    panels,
    ratio,
    save,
    thousands,
)
from timing import table

from bellmax.launch.reporting.plot import COLOURS

ROOT = pathlib.Path(__file__).parents[1]
FIRST_TUNING = 100  # the seed of the first MDP of those on which step sizes are chosen
MIXTURES = {0.5: "off-policy, e = 0.5", 0.0: "on-policy, e = 0"}
KINDS = ("stream", "fresh")
METRICS = {"q": "RMSE of Q", "gap": "RMSE of action gaps"}


def tuning_seeds(args: argparse.Namespace) -> range:
    return range(FIRST_TUNING, FIRST_TUNING + args.tuning)


def learn_distributions(setting, seeds, mixture, kind, sample, tuning, chosen_on):
    """method -> (curve at the equal step size, curve at its best), and prints the table.

    chosen_on: the seeds of `tuning`.
    """
    tuning_windows = distributions.draw_windows(setting, tuning.problems, chosen_on, kind)
    windows = distributions.draw_windows(setting, sample.problems, seeds, kind)
    curves, rows, base = {}, [], None
    for method in distributions.methods_for(mixture):
        best = distributions.tune(setting, tuning, tuning_windows, kind, method)
        sizes = distributions.EQUAL_STEP_SIZE, best
        pair = [
            distributions.learning_curve(setting, sample, windows, method, alpha) for alpha in sizes
        ]
        where = setting, kind, method
        areas = [distributions.area(*where, curve) for curve in pair]
        base = base or areas
        curves[method] = pair
        row = {
            "method": method.name,
            "area at 0.4": ratio(areas[0], base[0]),
            "best step size": f"{best:g}",
            "area at best": ratio(areas[1], base[1]),
        }
        for name, curve in zip(("0.4", "best"), pair, strict=True):
            counts = distributions.reached(*where, curve)
            row[f"interactions to W1 < 0.5 at {name}"] = median_of(counts, setting.updates)
        for share, name in ((0.1, "10 %"), (1.0, "100 %")):
            errors = distributions.errors_at(*where, pair[1], share)
            row[f"W1 at best, {name}"] = interval(errors)
        rows.append(row)
    print(f"\n### {kind} windows, {MIXTURES[mixture]}\n\n{table(rows)}", flush=True)
    return curves


def distribution_floors(sample, mixture):
    rows = [{"method": "quantiles of the exact law", "W1 of the fixed point": ""}]
    rows[0]["W1 of the fixed point"] = interval(sample.represented)
    for name, floors in sample.floors.items():
        rows.append({"method": name, "W1 of the fixed point": interval(floors)})
    print(f"\n### floors, {MIXTURES[mixture]}\n\n{table(rows)}")


def study_distributions(args: argparse.Namespace) -> None:
    sizes = {"updates": args.updates, "states": args.states}
    sizes["points"] = args.points or distributions.Setting().points
    setting, seeds = distributions.Setting(**sizes), range(args.mdps)
    figures = {kind: panels(2, 2) for kind in KINDS}
    for row, mixture in enumerate(MIXTURES):
        shown = distributions.methods_for(mixture)
        tuning = distributions.make_sample(setting, tuning_seeds(args), mixture)
        sample = distributions.make_sample(setting, seeds, mixture, shown)
        distribution_floors(sample, mixture)
        for kind in KINDS:
            where = setting, seeds, mixture, kind, sample, tuning
            curves = learn_distributions(*where, tuning_seeds(args))
            draw_distributions(figures[kind][1][row], kind, mixture, curves, sample, setting)
    for kind, name in (("stream", "tabular_distributions"), ("fresh", "tabular_windows")):
        legend(figures[kind][0], figures[kind][1][0, 0], 4)
        save(figures[kind][0], args.out, name)


def draw_distributions(axes, kind, mixture, curves, sample, setting):
    """Two panels: equal and best step sizes of a stream, or interactions and updates of windows."""
    for panel, ax in enumerate(axes):
        for method, pair in curves.items():
            number = distributions.METHODS.index(method)
            curve = pair[panel if kind == "stream" else 1]
            x = curve.updates
            if kind == "stream" or panel == 0:
                x = distributions.interactions(kind, method, x)
            shown = x <= setting.updates + method.k
            style = {"retrace": "-", "uncorrected": "--", "q_lambda": ":"}.get(method.trace, "-.")
            draw(ax, x[shown], curve.errors[:, shown], method.name, number, style)
        floor = sample.floors["1-step"].mean()
        ax.axhline(floor, color="0.4", linewidth=0.8, linestyle=(0, (1, 2)), label="1-step's floor")
        ax.set_yscale("log")
        counted = "updates" if kind == "fresh" and panel == 1 else "interactions"
        sizes = "equal step size" if kind == "stream" and panel == 0 else "best step sizes"
        dress(ax, f"{MIXTURES[mixture]}, {sizes}", counted, "W1 to the exact law (reward units)")
        thousands(ax)


def study_advantage(args: argparse.Namespace) -> None:
    sizes = {"visits": args.visits, "points": args.points or advantage.Setting(2).points}
    settings = [advantage.Setting(actions, **sizes) for actions in args.actions]
    figures = {name: panels(2, len(settings), width=4.0) for name in ("q", "gap")}
    noise, noise_axes = panels(1, len(settings), width=4.0)
    rows, floor_rows = {"q": [], "gap": []}, []
    for row, kind in enumerate(advantage.BEHAVIOURS):
        for column, setting in enumerate(settings):
            tuning = advantage.make_sample(setting, tuning_seeds(args), kind)
            sample = advantage.make_sample(setting, range(args.mdps), kind)
            curves = learn_advantage(setting, sample, tuning)
            for name, (_, axes) in figures.items():
                rows[name] += show_advantage(setting, kind, name, curves[name], axes[row, column])
            if kind == "uniform":
                floor_rows += advantage_floors(setting, sample, noise_axes[0, column])
    for name, title in METRICS.items():
        print(f"\n### {title}\n\n{table(rows[name])}")
    print(f"\n### noise floors, uniform\n\n{table(floor_rows)}")
    for name, (figure, axes) in figures.items():
        legend(figure, axes[0, 0], 4)
        save(figure, args.out, {"q": "tabular_advantage", "gap": "tabular_gaps"}[name])
    legend(noise, noise_axes[0, 0], 4)
    save(noise, args.out, "tabular_noise")


def learn_advantage(setting, sample, tuning):
    """metric -> method -> (index of the best step size, errors [A', M, P])."""
    curves = {"q": {}, "gap": {}}
    for method in advantage.METHODS:
        tuned = advantage.run(setting, tuning, method, setting.step_sizes)
        learnt = advantage.run(setting, sample, method, setting.step_sizes)
        for metric, each in curves.items():
            areas = advantage.area(getattr(tuned, metric)).mean(-1)
            each[method] = int(np.nanargmin(areas)), getattr(learnt, metric)
    return curves


def show_advantage(setting, kind, metric, curves, ax):
    """Rows of the table of one metric, and its panel: each method at its best step size."""
    sizes, equal = setting.step_sizes, setting.step_sizes.index(advantage.EQUAL_STEP_SIZE)
    rows, base = [], None
    steps = np.linspace(0, setting.interactions, setting.points + 1)[1:]
    for number, (method, (best, errors)) in enumerate(curves.items()):
        areas = [advantage.area(errors[index]) for index in (equal, best)]
        base = base or areas
        rows.append(
            {
                "actions": setting.actions,
                "behaviour": kind,
                "method": method,
                "area at 0.1": ratio(areas[0], base[0]),
                "best step size": f"{sizes[best]:g}",
                "area at best": ratio(areas[1], base[1]),
                "RMSE at best, 10 %": interval(errors[best][:, setting.points // 10 - 1]),
                "RMSE at best, 100 %": interval(errors[best][:, -1]),
            }
        )
        draw(ax, steps, errors[best], method, number, ("-", "-", "--", ":")[number])
    ax.set_yscale("log")
    title = f"{setting.actions} actions, {kind} behaviour"
    dress(ax, title, "interactions", f"{METRICS[metric]} (reward units)")
    thousands(ax)
    return rows


def advantage_floors(setting, sample, ax):
    """Return rows and draw a panel: errors that remain if learning starts at the fixed point."""
    rows = []
    for number, method in enumerate(advantage.METHODS[:3]):
        run = advantage.run(setting, sample, method, setting.step_sizes[:-1], at_optimum=True)
        floors = advantage.noise_floor(run)
        draw(ax, setting.step_sizes[:-1], floors.q.T, f"{method}, Q", number, marker=".")
        draw(ax, setting.step_sizes[:-1], floors.gap.T, f"{method}, gaps", number, ":", ".")
        equal = setting.step_sizes.index(advantage.EQUAL_STEP_SIZE)
        row = {"actions": setting.actions, "method": method}
        row |= {"Q at 0.1": interval(floors.q[equal]), "gaps at 0.1": interval(floors.gap[equal])}
        rows.append(row)
    ax.set_xscale("log")
    ax.set_yscale("log")
    title = f"{setting.actions} actions, uniform behaviour"
    dress(ax, title, "step size", "RMSE that remains (reward units)")
    return rows


def study_contraction(args: argparse.Namespace) -> None:
    figure, axes = panels(1, 3, share=False)
    draw_approach(args.mdps, axes[0, 0])
    draw_ratios(args.mdps, axes[0, 1])
    draw_values(args.mdps, axes[0, 2])
    save(figure, args.out, "tabular_contraction")


def draw_approach(mdps, ax):
    for number, method in enumerate(contraction.METHODS):
        pairs = [contraction.approach(seed, 0.5, method) for seed in range(mdps)]
        found, bounds = (np.stack(x) for x in zip(*pairs, strict=True))
        found, bounds = (x / found[:, :1] for x in (found, bounds))
        steps = np.arange(found.shape[1])
        draw(ax, steps, found, method.name, number, marker=".")
        label = "bound of theory" if method is contraction.METHODS[-1] else None
        ax.plot(steps, bounds.mean(0), ":", color="0.4", linewidth=1, label=label)
    ax.set_yscale("log")
    ax.legend(frameon=False, fontsize="small")
    dress(ax, "off-policy, e = 0.5", "exact applications", "sup W1 to the law, over the first")


def draw_ratios(mdps, ax):
    rows = []
    for number, method in enumerate(contraction.METHODS):
        for mixture in contraction.MIXTURES:
            found = [contraction.ratios(seed, mixture, method) for seed in range(mdps)]
            theory, shifted, random = np.array(found).T
            label = method.name if mixture == 0.5 else None
            ax.plot(theory, shifted, "o", ms=4, mfc="none", color=COLOURS[number], label=label)
            ax.plot(theory, random, ".", ms=4, color=COLOURS[number])
            row = {"operator": method.name, "e": mixture, "beta_1": interval(theory)}
            row["shifted pair, largest gap to beta_1"] = f"{np.abs(shifted - theory).max():.1e}"
            row["random pairs, largest ratio to beta_1"] = f"{(random / theory).max():.3f}"
            rows.append(row)
    print(f"\n### distributional Retrace, exact operator\n\n{table(rows)}")
    rates = [
        {"lambda": f"{x:g}", "measured": f"{one:.6f}", "closed form": f"{two:.6f}"}
        for x in contraction.LAMBDAS
        for one, two in [np.max([contraction.constant_trace(s, x) for s in range(mdps)], axis=0)]
    ]
    print(f"\n### constant traces, on-policy, K = 60\n\n{table(rates)}")
    ax.plot([0.4, 0.9], [0.4, 0.9], color="0.4", linewidth=0.8)
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    title = "circles: shifted pairs, dots: random pairs"
    dress(ax, title, "beta_1 of theory", "largest ratio of sup W1")


def draw_values(mdps, ax):
    rows, discounts = [], contraction.DISCOUNTS
    found = np.array([[contraction.value_rates(s, g) for g in discounts] for s in range(mdps)])
    draw(ax, discounts, found[:, :, 1], "fixed point plus a constant", 0, "-", "o")
    draw(ax, discounts, found[:, :, 0], "random tables", 1, "--", ".")
    ax.plot([0.5, 1], [0.5, 1], color="0.4", linewidth=0.8, label="gamma")
    for number, gamma in enumerate(discounts):
        random, shifted = found[:, number].T
        row = {"gamma": f"{gamma:g}", "random tables": interval(random, 6)}
        rows.append(row | {"largest": f"{random.max():.6f}", "shifted": f"{shifted.max():.6f}"})
    print(f"\n### VA dynamic programming\n\n{table(rows)}")
    ax.legend(frameon=False, fontsize="small")
    dress(ax, "VA dynamic programming", "gamma", "largest ratio of sup errors")


STUDIES = {
    "distributions": study_distributions,
    "advantage": study_advantage,
    "contraction": study_contraction,
}


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", metavar="study", help=", ".join(STUDIES))
    parser.add_argument("--mdps", type=int, default=30, help="how many MDPs are shown")
    parser.add_argument(
        "--updates", type=int, default=10_000, help="of a run of distributions, a multiple of 80"
    )
    parser.add_argument("--states", type=int, default=8, help="of an MDP of distributions")
    parser.add_argument("--visits", type=int, default=200, help="of each state and action")
    text = "numbers of actions of advantage"
    parser.add_argument("--actions", type=int, nargs="+", default=[2, 5, 20], help=text)
    text = "MDPs on which step sizes are chosen"
    parser.add_argument("--tuning", type=int, default=10, help=text)
    text = "of a curve, in place of each study's own number"
    parser.add_argument("--points", type=int, choices=(10, 20, 40), help=text)
    folder = ROOT / "docs/results"
    parser.add_argument("--out", type=pathlib.Path, default=folder, help="folder of plots")
    # As many MDPs for the choice of step sizes as are shown, so that both have the same programs.
    small = {"mdps": 2, "tuning": 2, "updates": 160, "visits": 4, "actions": [2], "points": 10}
    small["states"] = 4
    args = parse(parser, words, studies=["contraction"], out=SCRATCH, **small)
    if unknown := sorted(set(args.studies) - set(STUDIES)):
        parser.error(f"there is no study {unknown[0]}; there are {', '.join(STUDIES)}")
    if not 2 <= args.mdps <= 100:
        parser.error(f"--mdps must be in [2, 100], got {args.mdps}; later seeds are for tuning")
    if args.updates < 80 or args.updates % 80:
        parser.error(f"--updates must be a multiple of 80, got {args.updates}")
    if args.tuning < 1:
        parser.error(f"--tuning must be at least 1, got {args.tuning}")
    if args.visits < 1:
        parser.error(f"--visits must be at least 1, got {args.visits}")
    for name in args.studies or STUDIES:
        started = time.perf_counter()
        print(f"\n## {name}")
        STUDIES[name](args)
        print(f"\n{name}: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
