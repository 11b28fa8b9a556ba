"""The commands of the pages work.

Lines of `bash` and `console` blocks that call bellmax run in order, in a folder that holds the YAML
files of the page and a finished run, `runs/first`. All run in this process: what a command leaves
in processes of its own is the subject of tests/launch. Training is cut short by the options in
SHORT. Two kinds of `train` are only tried, which means that they are parsed and that their run is
built without compiling anything: those of docs/results, studies that took hours, and those whose
preset and options another page trains. Those of HEAVY pages are tried, and trained with `--slow`,
but for tasks in LARGE. Of other commands only those in ELSEWHERE may appear.
"""

import contextlib
import importlib.util
import re
import shlex
import shutil
import sys

import pytest

from bellmax.launch.cli import main
from bellmax.launch.studies.sweep import jobs as sweep
from bellmax.launch.studies.sweep.pools import Ended, Pool
from bellmax.launch.training import train
from bellmax.launch.training.experiment import build
from helpers.compiling import compiles_soon
from helpers.pages import RESULTS, RUN_PAGES, blocks, commands, named

SHORT = (
    "--steps 2000 --warmup-steps 1000 --log-every 1000 --evaluate-every 0 --evaluation-episodes 2 "
    "--evaluation-max-steps 20 --checkpoint-every 0 --agent.network.hidden 8"
).split()
# Installing, what CI does itself, and studies that take long: not run here.
ELSEWHERE = (
    "python3 -m venv ",
    ".venv/bin/pip install ",
    'PATH="$PWD/.venv/bin:$PATH" ./test.sh',
    'PATH="$PWD/.venv/bin:$PATH" python -m pytest ',
    "./test.sh",
    "pip install ",
    "mkdocs ",
    "python -m pytest --slow -m site",
    "python benchmarks/",
    "python -m benchmarks.",
    "python examples/",
)
HEAVY = {  # compiling what they train takes long
    "environments.md",
    *("byol_explore.md", "curiosity.md", "expectrl.md", "robustness.md", "sweeps.md"),
    *("count_bonus.md", "icm.md", "on_policy.md", "rnd.md"),
    *("c51.md", "iqn.md", "memory_masks_objectives.md", "munchausen_dqn.md"),
}
LARGE = ("craftax",)  # compiling the game takes half a minute
SUITES = "brax", "gymnasium", "pgx", "jumanji", "navix"  # commands that name one need its extra
NEUTRAL = {"seed", "seeds", "out"}  # options that leave the program as it is
RUN_COMMANDS = [p for p in RUN_PAGES if RESULTS not in p.parents and commands(p)]


def options_of(arguments):
    """The options of a `train` command with their values, in which all numbers are alike."""
    found, name = {}, None
    for token in arguments[2:]:
        if token.startswith("--"):
            name, _, value = token[2:].partition("=")
        else:
            value = token
        found[name] = re.sub(r"[-\d.e]*\d", "0", value)
    return found


def covers(one, other):
    """Whether a `train` command trains at least what another one does; seeds are all alike."""
    mine, theirs = (
        {("source", c[1]), *(kv for kv in options_of(c).items() if kv[0] not in NEUTRAL)}
        for c in (one, other)
    )
    return theirs <= mine


def repeated(pages):
    """(page, place among its commands) of the `train` commands that others cover.

    Those that name a folder are none: what comes after them reads it.
    """
    every = [
        (page, place, shlex.split(command)[1:])
        for page in pages
        for place, command in enumerate(commands(page))
        if command.startswith("bellmax train ")
    ]
    every.sort(key=lambda found: ("--out" not in found[2], -len(found[2])))
    trained, found = [], set()
    for page, place, arguments in every:
        if "--out" not in arguments and any(covers(other, arguments) for other in trained):
            found.add((page, place))
        else:
            trained.append(arguments)
    return found


def available(command):
    """Whether the extras that a command needs are installed; CI has them all."""
    extra = {"minatar": "gymnax", **{name: name for name in SUITES}}
    needed = [package for word, package in extra.items() if word in command]
    return all(importlib.util.find_spec(package) for package in needed)


@contextlib.contextmanager
def pool_here(jobs, out):
    """Runs what a sweep starts in this process, one after the other."""

    def start(job):
        return Ended(main(job.arguments), "")

    yield Pool(lambda: 1, start, lambda ended: ended, lambda *_: None, lambda _: None)


@pytest.fixture(scope="module", autouse=True)
def settings():
    with pytest.MonkeyPatch.context() as patch, compiles_soon():
        patch.setattr("bellmax.launch.distributed.devices.configure_jax", lambda **_: None)
        patch.setattr(sweep, "make_pool", pool_here)
        patch.setattr(sys, "path", [*sys.path])
        yield


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "first"
    assert main(["train", "dqn/cartpole", "--out", str(folder), *SHORT]) == 0
    return folder


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader's folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_files(page, folder):
    for _, text in blocks(page, "yaml"):
        if name := re.match(r"# (\S+\.yaml)\n", text):
            (folder / name[1]).write_text(text)


def try_train(arguments, monkeypatch, whole=True):
    """Parses a `train` command, loads its configuration and, for a whole try, builds its run.

    Nothing is compiled or written.
    """
    loaded = []

    def stand_in(config, out, actors, **_):
        if whole:
            build(config).close()
        loaded.append(config)
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(train, "train", stand_in)
        assert main(arguments) == 0
    assert len(loaded) == 1


def work(page, folder, tried, monkeypatch, capfd):
    """Runs the commands of a page in order."""
    write_files(page, folder)
    for place, command in enumerate(commands(page)):
        if not command.startswith("bellmax "):
            assert command.startswith(ELSEWHERE), f"{command}: neither run nor known"
        elif available(command):
            command, _, file = command.partition(" > ")
            arguments = shlex.split(command)[1:]
            large = arguments[0] == "train" and any(word in command for word in LARGE)
            if large or (page, place) in tried:
                try_train(arguments, monkeypatch)
                continue
            short = SHORT if arguments[0] == "train" else []
            capfd.readouterr()
            assert main([*arguments, *short]) == 0, f"{command}\n{capfd.readouterr().err}"
            if file:
                (folder / file).write_text(capfd.readouterr().out)


REPEATED = repeated(RUN_COMMANDS)


def test_what_is_trained_once(tmp_path):
    page, other = tmp_path / "a.md", tmp_path / "b.md"
    page.write_text(
        "```bash\nbellmax train x --alpha 0.3\nbellmax train x --alpha auto --seed 1\n"
        "bellmax train x --seeds 4 --alpha=1e-3 --clip 2\nbellmax train y\n```\n"
    )
    other.write_text("```bash\nls\nbellmax train y --out z\nbellmax train y --out w\n```\n")
    assert repeated([page, other]) == {(page, 0), (page, 3)}


@pytest.mark.parametrize("page", named(RUN_COMMANDS, slow=HEAVY))
def test_commands_work(page, reader, first_run, monkeypatch, capfd):
    shutil.copytree(first_run, reader / "runs" / "first")
    work(page, reader, REPEATED, monkeypatch, capfd)


TRIED = [p for p in RUN_PAGES if RESULTS in p.parents or p.name in HEAVY]


@pytest.mark.parametrize("page", named(TRIED))
def test_trainings_of_studies_and_heavy_pages_fit_together(page, reader, monkeypatch):
    write_files(page, reader)
    before, same = list(reader.iterdir()), repeated([page])
    for place, command in enumerate(commands(page)):
        if command.startswith("bellmax train ") and available(command):
            whole = (page, place) not in same and "brax" not in command
            try_train(shlex.split(command)[1:], monkeypatch, whole)
        else:  # what reads runs cannot be tried, and studies have none of it
            assert page.name in HEAVY or command.startswith(("bellmax train ", *ELSEWHERE))
    assert list(reader.iterdir()) == before


@pytest.mark.slow
def test_trainings_of_brax_in_studies_build(reader, monkeypatch):
    """Tracing physics takes seconds each time."""
    every = [(p, i, c) for p in TRIED for i, c in enumerate(commands(p)) if "brax" in c]
    same = repeated(TRIED)
    tried = [command for page, place, command in every if (page, place) not in same]
    assert tried
    for command in filter(available, tried):
        try_train(shlex.split(command)[1:], monkeypatch)
