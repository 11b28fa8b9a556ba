"""Output that encodes few characters, is closed, or is full loses nothing and crashes nothing."""

import contextlib
import io
import sys

import pytest
import yaml

from bellmax.launch.cli import main
from helpers.processes import finish, start_bellmax, start_python

NAME = "tâche_é:ß→😀"


class Stream(io.TextIOWrapper):
    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


def run(line, encoding):
    """Return the exit code, and what came on stdout and stderr."""
    out, err = Stream(encoding), Stream(encoding)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(line.split())
    return code, out.text(), err.text()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_configuration_is_printed_so_that_it_reads_back(encoding):
    code, out, _ = run(f"show-config dqn/cartpole --env.name {NAME} --wandb Ω", encoding)
    printed = yaml.safe_load(out)
    assert (code, printed["env"]["name"], printed["wandb"]) == (0, NAME, "Ω")


@pytest.mark.parametrize("encoding", ["ascii", "koi8-r"])
@pytest.mark.parametrize("command", ["show-config", "list", "check-env", "evaluate"])
def test_a_name_in_a_sentence_is_escaped(encoding, command):
    code, out, err = run(f"{command} {NAME}", encoding)
    assert code in (1, 2) and "\\U0001f600" in out + err and len((out + err).splitlines()) == 1


@pytest.mark.parametrize("line", ["--help", "train dqn/cartpole --help", "schema dqn"])
def test_what_is_long_is_printed_too(line):
    code, out, err = run(line, "ascii")
    assert (code, err) == (0, "") and len(out) > 500


@pytest.mark.parametrize(
    "line",
    ["--help", "--version", "list presets", "schema dqn", "train --help", "show-config dqn"],
)
def test_closed_streams_change_nothing(monkeypatch, line):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(line.split()) == 0
    for stream in (sys.stdout, sys.stderr):
        stream.close()


# Commands, each an argument, one after the other.
EACH = """
import sys
from bellmax.launch.cli import main
sys.exit([line for line in sys.argv[1:] if main(line.split()) != 0] or 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_processes_without_unicode_end_well(variables):
    lines = "list presets", "doctor", "check-env bellmax/Catch", "--help"
    out, err = finish(start_python("-c", EACH, *lines, env=variables))
    assert err == "" and "dqn/cartpole" in out and "usage: bellmax" in out


@pytest.mark.slow
def test_a_full_disk_behind_stdout_is_one_sentence():
    with open("/dev/full", "w") as full:
        process = start_bellmax("list", "presets", stdout=full)
        _, err = finish(process, code=1)
    assert "free space" in err and len(err.splitlines()) == 1
