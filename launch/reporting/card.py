"""The model card of a shared run: what it is, its returns, and how to use and repeat it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from bellmax.launch.config.trust import code_in
from bellmax.launch.config.yaml_files import dump_yaml
from bellmax.launch.reporting.hub import CURVE, VIDEOS, Repo
from bellmax.launch.reporting.metrics import Row, last_evaluation
from bellmax.launch.reporting.statistics import spread, spread_name

_SHOWN = ("bellmax", "commit", "jax", "jaxlib", "python", "platform", "device")  # versions
_TRUST = """
The configuration names code of its author: {names}. bellmax imports it only with `--trust`
(`trust=True` in Python). Read that code first; it is not part of this repository.
"""


def model_card(
    repo: Repo,
    config: Mapping[str, Any],
    rows: Sequence[Row],
    versions: Mapping[str, Any],
    files: Collection[str],
) -> str:
    """Return the text of a README.md.

    Args:
      repo: where the run is shared.
      config: the run's configuration, nested.
      rows: of its log.
      versions: versions and devices of its training, by name.
      files: names of the other files that are shared.
    """
    agent, task = _name(config, "agent"), _name(config, "env")
    final = last_evaluation(rows)
    front = dump_yaml(_front_matter(agent, task, final))
    parts = [f"---\n{front}---\n", f"# {agent} on {task}\n", _summary(config, final)]
    if CURVE in files:
        parts.append(f"![Evaluation return while training]({CURVE})\n")
    parts += [f"![Episodes]({name})\n" for name in VIDEOS if name in files and "gif" in name]
    parts += [
        f'<video controls loop src="{name}"></video>\n'
        for name in VIDEOS
        if name in files and "mp4" in name
    ]
    names = sorted({name for several in code_in(config).values() for name in several})
    if names:
        parts.append(_TRUST.format(names=", ".join(f"`{name}`" for name in names)).lstrip())
    parts += [_returns(final), _use(repo, trusts=bool(names)), _versions(versions)]
    return "\n".join(part for part in parts if part)


def _name(config: Mapping[str, Any], section: str) -> str:
    known = config.get(section)
    return str(known.get("name")) if isinstance(known, Mapping) else "unknown"


def _front_matter(agent: str, task: str, final: Sequence[Row]) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "bellmax",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "deep-reinforcement-learning", "bellmax", agent, task],
    }
    if final:
        returns = [row["episode_return"] for row in final]
        value = f"{np.mean(returns):.2f} +/- {np.std(returns):.2f}"
        metric = {"type": "mean_reward", "name": "mean_reward", "value": value, "verified": False}
        kind = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        result = {"task": kind, "dataset": {"name": task, "type": task}, "metrics": [metric]}
        front["model-index"] = [{"name": agent, "results": [result]}]
    return front


def _summary(config: Mapping[str, Any], final: Sequence[Row]) -> str:
    steps = f"{final[0]['step']:,} environment steps per seed" if final else "a part of its steps"
    first, count = config.get("seed", 0), config.get("seeds", 1)
    seeds = f"seed {first}" if count == 1 else f"seeds {first} to {first + count - 1}"
    return f"Policies trained with bellmax for {steps}, {seeds}.\n"


def _returns(final: Sequence[Row]) -> str:
    if not final:
        return ""
    lines = [
        "## Returns",
        "",
        "Undiscounted return of the greedy policy in the run's last evaluation.",
    ]
    lines += ["", "| seed | mean | least | greatest | episodes |", "|---|---|---|---|---|"]
    for row in final:
        numbers = (row.get(f"episode_return{end}") for end in ("", "_min", "_max"))
        shown = [f"{x:.2f}" if isinstance(x, int | float) else "" for x in numbers]
        lines.append(f"| {row['seed']} | {' | '.join(shown)} | {row.get('episodes', '')} |")
    returns = [row["episode_return"] for row in final]
    if len(returns) > 1:
        low, high = spread(returns)
        around = f"{spread_name(len(returns))} {low:.2f} to {high:.2f}"
        lines += ["", f"Mean over {len(returns)} seeds: {np.mean(returns):.2f} ({around})."]
    return "\n".join([*lines, ""])


def _use(repo: Repo, *, trusts: bool) -> str:
    option, argument = (" --trust", ", trust=True") if trusts else ("", "")
    return f"""## Use

```bash
pip install "bellmax[hub]"
bellmax pull {repo} --out run
bellmax evaluate run --episodes 100{option}
bellmax train run --out again{option}
```

```python
import bellmax

policy = bellmax.load_policy("{repo}"{argument})
```

The last command trains it again; with the versions below it gives the same numbers on the same
device.
"""


def _versions(versions: Mapping[str, Any]) -> str:
    known = [(name, versions[name]) for name in _SHOWN if versions.get(name)]
    if not known:
        return ""
    rows = [f"| {name} | {value} |" for name, value in known]
    return "\n".join(["## Versions", "", "| | |", "|---|---|", *rows, ""])
