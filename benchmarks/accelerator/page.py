"""What a run has found so far, as JSON and as a Markdown page, written after every row."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.accelerator.plan import Section
from timing import table

NOT_STARTED = "not started"


def new_report(sections: tuple[Section, ...], *, seconds: float, small: bool) -> dict[str, Any]:
    """The report of a run that has not begun; `seconds` is its time limit."""
    empty = {"status": NOT_STARTED, "facts": {}, "rows": [], "notes": []}
    return {
        "limit_seconds": seconds,
        "small": small,
        "host": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "sections": {s.name: json.loads(json.dumps(empty)) for s in sections},
    }


def add(entry: dict[str, Any], kind: str, value: Any) -> None:
    """Add what a section found to its entry: a `row`, a `note` or `facts`."""
    if kind == "facts":
        entry["facts"].update(value)
    else:
        entry[f"{kind}s"].append(value)


def page(report: dict[str, Any], sections: tuple[Section, ...]) -> str:
    """The report as Markdown; sections that have not begun say so."""
    found = report["sections"]
    facts = found.get("device", {}).get("facts", {})
    kind = "--small" if report["small"] else f"limit {report['limit_seconds']:.0f} s"
    lines = [f"# bellmax on {facts.get('device', 'an unknown device')}", ""]
    lines += [f"`python -m benchmarks.accelerator`, {kind}.", ""]
    described = {**facts, **report["host"]}
    if described:
        lines += ["| | |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in described.items()] + [""]
    for section in sections:
        lines += _section(section, found[section.name])
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section, entry: dict[str, Any]) -> list[str]:
    lines = [f"## {section.title}", "", section.text, ""]
    if entry["rows"]:
        lines += [table(_rounded(entry["rows"])), ""]
    for note in entry["notes"]:
        lines += [f"* {note}"]
    lines += [""] if entry["notes"] else []
    status = entry["status"]
    if "seconds" in entry:
        status += f", {entry['seconds']:.0f} s of {entry['limit']:.0f}"
    return [*lines, f"Section `{section.name}`: {status}.", ""]


def _rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in which whole numbers from 10,000 have separators, as the other numbers do."""
    return [
        {k: f"{v:,}" if type(v) is int and v >= 10_000 else v for k, v in row.items()}
        for row in rows
    ]


def write(report: dict[str, Any], sections: tuple[Section, ...], folder: Path) -> None:
    """Write `accelerator.json` and `accelerator.md`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "accelerator.json": json.dumps(report, indent=2) + "\n",
        "accelerator.md": page(report, sections),
    }
    for name, text in texts.items():
        unfinished = folder / f".{name}"
        unfinished.write_text(text)
        unfinished.replace(folder / name)
