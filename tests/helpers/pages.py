"""The pages of the repository: their fenced blocks, and the shell commands in them."""

import pathlib
import re

from helpers.marked import some_slow

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
RESULTS = ROOT / "docs" / "results"  # records of studies
RUN_PAGES = [
    p for p in PAGES if p.parent in (ROOT, ROOT / "examples") or ROOT / "docs" in p.parents
]
FENCE = re.compile(r"^```(\w+)(.*?)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page, *kinds):
    """Return the fenced blocks of a page: (words after the language, text)."""
    found = FENCE.findall(page.read_text())
    return [(options.strip(), text) for kind, options, text in found if kind in kinds]


def commands(page):
    """Return the shell commands in a block, without prompts, comments and output."""
    found = []
    for kind, _, text in FENCE.findall(page.read_text()):
        if kind not in ("bash", "console"):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if kind == "console" and not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ").split(" #")[0].strip()
            found += [part.strip() for part in line.split("&&") if part.strip()]
    # Indented blocks too.
    found += re.findall(r"^    (bellmax .+)$", page.read_text(), re.MULTILINE)
    return [c.removeprefix(".venv/bin/") if "/bellmax " in c else c for c in found]


def prose(page):
    """The text of a page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def named(pages, slow=()):
    """Parameters of a test, one a page, with the page's path as their id.

    Args:
      pages: their paths.
      slow: the names of those that are marked so.
    """
    cases = {str(page.relative_to(ROOT)): page for page in pages}
    return some_slow(cases, [name for name, page in cases.items() if page.name in slow])
