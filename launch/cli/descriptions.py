"""Descriptions of the names that `bellmax list` prints. Nothing here imports jax."""

import importlib.resources
import importlib.util
from collections.abc import Callable, Sequence

from bellmax.agents import registry

_TASKS = {
    "bellmax/CartPole": "balance a pole, 2 actions",
    "bellmax/Catch": "catch a falling ball, 3 actions",
    "bellmax/DeepSea": "deep exploration on a grid, 2 actions",
    "bellmax/Gamble": "two steps whose best policy depends on the objective, 2 actions",
    "bellmax/NoisyGrid": "a grid with a noisy screen, 5 actions",
    "bellmax/Pendulum": "swing a pendulum up, continuous actions",
    "bellmax/PixelCatch": "Catch as images, 3 actions",
    "bellmax/TicTacToe": "against a random opponent, legal actions shown, 9 actions",
    "bellmax/TwoStateChain": "two states with exact answers, 2 actions",
}
_SUITES = {
    "gymnax": "JAX; extra gymnax",
    "brax": "JAX, continuous actions; extra brax",
    "craftax": "JAX; extra craftax",
    "jumanji": "JAX; extra jumanji",
    "navix": "JAX; extra navix",
    "pgx": "JAX, games against an opponent; extra pgx",
    "playground": "JAX, MuJoCo Playground, continuous actions; extra playground",
    "xminigrid": "JAX; extra xminigrid",
    "ale": "host, Atari; extra ale",
    "bsuite": "host; extra bsuite",
    "dm_control": "host, continuous actions; extra dm-control",
    "envpool": "host, C++ threads; extra envpool",
    "gymnasium": "host; MuJoCo needs the extra gymnasium",
    "minigrid": "host; extra minigrid",
}
# Packages of suites whose names differ.
_PACKAGES = {"ale": "ale_py", "playground": "mujoco_playground"}
_MUJOCO = "-v5"  # how the names of gymnasium's MuJoCo tasks end


def describe_names(kind: str, names: Sequence[str]) -> dict[str, str]:
    """Return a line of description for each name.

    Args:
      kind: "agents", "envs" or "presets".
      names: of that kind.
    """
    kinds: dict[str, Callable[[str], str]] = {
        "agents": _agent,
        "envs": lambda name: _TASKS.get(name) or _SUITES.get(name.partition("/")[0], ""),
        "presets": _preset,
    }
    return {name: kinds[kind](name) for name in names}


def _agent(name: str) -> str:
    config = registry.config_class(name)
    actions = "continuous" if hasattr(config, "random_steps") else "discrete"
    about = (config.__doc__ or "").split("\n\n")[0]
    text = " ".join(about.split()).removeprefix("Hyper-parameters of ").rstrip(".")
    return f"{text}; {actions} actions"


def _preset(name: str) -> str:
    """Return the comment at the top of the preset's file, its task, and the extra it lacks."""
    folder, _, file = name.partition("/")
    path = importlib.resources.files("bellmax.configs") / folder / f"{file}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = lines[0].removeprefix("#").strip() if lines[0].startswith("#") else ""
    task = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("  name:")), "")
    suite = task.partition("/")[0]
    if suite not in _SUITES:
        return comment.rstrip(".")
    package = _PACKAGES.get(suite, suite)
    if suite == "gymnasium" and task.endswith(_MUJOCO):
        package = "mujoco"
    missing = importlib.util.find_spec(package) is None
    needs = f", needs the extra {suite.replace('_', '-')}" if missing else ""
    return f"{comment.rstrip('.')} [{task}{needs}]"
