"""What the pages say is true: their Python runs, their commands work, their links lead somewhere.

Blocks marked `python` run, those of a page one after the other in one namespace, in an empty
folder; `python notest` needs what the reader has. Lines of `bash` and `console` blocks that call
bellmax run in order too, in a folder that holds the YAML files of the page and a finished run,
`runs/first`; training is cut short by the options in SHORT. Of other commands only those in
ELSEWHERE may appear.
Commands within sentences must name a command that there is.
"""

import importlib.util
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import types

import jax
import pytest

from bellmax.launch.commands import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
RUN_PAGES = [p for p in PAGES if p.parent.name in (ROOT.name, "docs", "examples")]
SHORT = (
    "--steps 2000 --warmup-steps 1000 --log-every 1000 --evaluate-every 0 --evaluation-episodes 2 "
    "--evaluation-max-steps 20 --checkpoint-every 0 --agent.network.hidden 8"
).split()
# Installing, what CI does itself, and studies that take long: not run here.
ELSEWHERE = (
    "python3 -m venv ",
    ".venv/bin/pip install ",
    'PATH="$PWD/.venv/bin:$PATH" ./test.sh',
    "./test.sh",
    "pip install ",
    "python benchmarks/",
    "python examples/",
)
NOT_TESTED = {"README.md": 1}  # Python blocks marked `notest`
FENCE = re.compile(r"^```(\w+)(.*?)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page, *kinds):
    """The fenced blocks of a page: (what is written after the language, text)."""
    found = FENCE.findall(page.read_text())
    return [(options.strip(), text) for kind, options, text in found if kind in kinds]


def commands(page):
    """Its shell commands one by one, without prompts, comments and what the program prints."""
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


def named(pages):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


@pytest.mark.parametrize("page", named(p for p in RUN_PAGES if blocks(p, "python")))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(page.stem)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    skipped = 0
    for options, text in blocks(page, "python"):
        assert options in ("", "notest"), f"{options} is no option of a Python block"
        skipped += options == "notest"
        if not options:
            with jax.numpy_rank_promotion("allow"):  # as it is for readers
                exec(compile(text, str(page), "exec"), module.__dict__)
    assert skipped == NOT_TESTED.get(page.name, 0)


def bellmax(arguments, folder):
    code = "import sys; from bellmax.launch.cli import main; sys.exit(main())"
    if arguments[0] == "train":
        arguments = [*arguments, *SHORT]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"bellmax {' '.join(arguments)}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "first"
    bellmax(["train", "dqn/cartpole", "--out", str(folder)], folder.parent)
    return folder


@pytest.mark.parametrize("page", named(p for p in RUN_PAGES if commands(p)))
def test_commands_work(page, tmp_path, first_run):
    for command in commands(page):
        if not command.startswith("bellmax "):
            assert command.startswith(ELSEWHERE), f"{command}: neither run nor known"
    shutil.copytree(first_run, tmp_path / "runs" / "first")
    for _, text in blocks(page, "yaml"):
        if name := re.match(r"# (\S+\.yaml)\n", text):
            (tmp_path / name[1]).write_text(text)
    for command in commands(page):
        extra = {"minatar": "gymnax", "brax/": "brax"}
        needed = [package for word, package in extra.items() if word in command]
        if any(importlib.util.find_spec(package) is None for package in needed):
            continue  # CI has both
        if command.startswith("bellmax "):
            bellmax(shlex.split(command)[1:], tmp_path)


@pytest.mark.parametrize("page", named(PAGES))
def test_commands_in_sentences_exist(page):
    text = FENCE.sub("", page.read_text())
    for command in re.findall(r"`bellmax ([a-z][\w-]*)", text):
        assert command in COMMANDS, f"bellmax {command}"


@pytest.mark.parametrize("page", named(PAGES))
def test_links_within_the_repository_lead_somewhere(page):
    assert broken_links(FENCE.sub("", page.read_text()), page.parent) == []


def broken_links(text, folder):
    """The targets of Markdown links that are neither addresses nor files below a folder."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    targets = [t for t in targets if not re.match(r"[a-z]+:", t) and not t.startswith("#")]
    return [t for t in targets if not (folder / t.partition("#")[0]).exists()]


def test_a_broken_link_and_an_untested_block_would_be_found(tmp_path):
    assert broken_links("[a](no/such.md) [b](#here) [c](https://x.y)", tmp_path) == ["no/such.md"]
    page = tmp_path / "page.md"
    page.write_text("```python notest\n1\n```\n\n```bash\nls && bellmax doctor  # what\n```\n")
    assert blocks(page, "python") == [("notest", "1\n")]
    assert commands(page) == ["ls", "bellmax doctor"]
