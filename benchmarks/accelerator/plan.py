"""The sections of the run: their order, their time limits, and which sizes they take."""

from typing import NamedTuple

SECONDS = 480.0
GRACE = 12.0  # from a section's limit, which it checks itself, to the end of its process
SMALL_SECONDS, SMALL_GRACE = 170.0, 8.0


class Section(NamedTuple):
    """A part of the run.

    Attributes:
      name: of its entry in the JSON file.
      title: its heading on the page.
      text: what its table shows.
      limit, small_limit: seconds that it may take, without and with `--small`.
      least: seconds without which it is not started.
      function: `module:name` of a generator that takes a `Work`.
    """

    name: str
    title: str
    text: str
    limit: float
    small_limit: float
    least: float
    function: str


_HERE = "benchmarks.accelerator."
SECTIONS = (
    Section(
        "device",
        "Device",
        "Peaks as measured: a product of two square matrices, and `x + 1` of a large array, which "
        "reads and writes each byte once.",
        *(30, 15, 5),
        _HERE + "device:measure_device",
    ),
    Section(
        "compile",
        "Compilation",
        "Seconds to trace and to compile the whole training program of each agent, without a "
        "compilation cache, and the bytes that XLA plans for it.",
        *(80, 45, 10),
        _HERE + "programs:measure_compilation",
    ),
    Section(
        "rates",
        "Training speed",
        "Environment steps and gradient steps per second of all seeds together, acting, replay "
        "and learning included. A preset takes the same number of gradient steps per rollout for "
        "any number of environments.",
        *(120, 35, 10),
        _HERE + "programs:measure_rates",
    ),
    Section(
        "peers",
        "Other loops",
        "DQN on CartPole at equal hyper-parameters: bellmax, a loop without a framework, and "
        "rejax, in turns. `ratio` is relative to the loop without a framework.",
        *(45, 25, 10),
        _HERE + "programs:measure_peers",
    ),
    Section(
        "learner",
        "A gradient step at Atari's shapes",
        "QR-DQN with the Nature network on 84x84x4 bytes, 201 quantiles, 18 actions. FLOPs are "
        "XLA's count before optimisation; the share is relative to the matrix product above.",
        *(45, 22, 5),
        _HERE + "device:measure_learner",
    ),
    Section(
        "quantiles",
        "Quantile regression",
        "The gradient of N quantiles against M atoms, by sorting and by all pairs; `ratio` above "
        "1: sorting is faster.",
        *(20, 8, 3),
        _HERE + "device:measure_quantiles",
    ),
    Section(
        "learning",
        "Learning",
        "Evaluation return of Munchausen DQN and DQN on MinAtar: mean over seeds and its 95 % "
        "interval. The agents take turns, so that a run that is cut has both at equal steps.",
        *(10_000, 40, 10),
        _HERE + "learning:measure_learning",
    ),
)


def allowed(section: Section, left: float, *, small: bool) -> float | None:
    """Seconds that a section may take of the `left` ones; None if they do not suffice for it."""
    limit, grace = (section.small_limit, SMALL_GRACE) if small else (section.limit, GRACE)
    seconds = min(limit, left - grace)
    return seconds if seconds >= section.least else None


# The five agents, each on a task for which it has a preset; the smaller ones first.
COMPILED = (
    "munchausen_dqn/minatar_breakout",
    "va_learning/minatar_breakout",
    "qr_dqn_retrace/minatar_breakout",
    "byol_explore/deepsea",
    "expectrl/brax_hopper",
)
# Those whose programs compile fast on a CPU.
SMALL_COMPILED = ("byol_explore/deepsea", "expectrl/pendulum")
PRESETS = (
    "dqn/cartpole",
    "munchausen_dqn/minatar_breakout",
    "byol_explore/deepsea",
    "expectrl/brax_hopper",
)
# All but the first are among SMALL_COMPILED, so that they are compiled once.
SMALL_PRESETS = ("dqn/cartpole", *SMALL_COMPILED)
# (seeds, environments; None: the preset's number), the most telling first, as not all may fit.
SIZES = (
    *((1, None), (64, None), (1, 1024), (16, 128), (256, None), (1024, None), (16, None)),
    *((1, 128), (64, 128), (16, 1024), (64, 1024), (256, 128), (256, 1024), (1024, 128)),
)
SMALL_SIZES = ((1, None),)


class Size(NamedTuple):
    """A program of the grid; `envs` None is the preset's own number of environments."""

    preset: str
    seeds: int
    envs: int | None


def grid(*, small: bool) -> list[Size]:
    """All programs of the section `rates`, in the order in which they are measured.

    Every preset is measured at one size before any is at the next.
    """
    sizes, presets = (SMALL_SIZES, SMALL_PRESETS) if small else (SIZES, PRESETS)
    return [Size(preset, *size) for size in sizes for preset in presets]


def overrides(size: Size, *, on_policy: bool, own_envs: int) -> list[str]:
    """Options of a program: its size, and a replay that is as small as its batches allow."""
    envs = size.envs or own_envs
    words = [f"--seeds={size.seeds}", f"--env.num-envs={envs}"]
    if on_policy:  # a batch is whole environments: all of them, for any number
        return [*words, f"--agent.batch-size={envs}"]
    # 8 steps of each environment: the longest sequence of a preset has 4.
    steps = max(10_000, 8 * envs)
    return [*words, f"--replay.capacity={steps}", f"--warmup-steps={max(1_000, 8 * envs)}"]


def seeds_that_fit(rows: list[dict], preset: str, *, slowdown: float, default: int) -> int:
    """Most seeds of a preset whose gradient step is at most `slowdown` times that of the fewest.

    Args:
      rows: of the section `rates`.
      preset: the one whose rows at the fewest environments are compared.
      slowdown: of one iteration of the program.
      default: the result without two such rows.
    """
    mine = [r for r in rows if r.get("preset") == preset and r.get("gradient steps/s")]
    fewest = min((r["environments"] for r in mine), default=0)
    each = {
        r["seeds"]: r["seeds"] / r["gradient steps/s"] for r in mine if r["environments"] == fewest
    }
    if len(each) < 2:
        return default
    base = each[min(each)]
    return max(seeds for seeds, seconds in each.items() if seconds <= slowdown * base)
