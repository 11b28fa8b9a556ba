"""The recipes of cloud/: they parse, and their commands run on this machine."""

import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import tomllib

import pytest
import yaml

from bellmax.launch.cli import main
from helpers.processes import HANG_SECONDS, PROGRAM, SOURCE

ROOT = pathlib.Path(__file__).parents[1]
CLOUD = ROOT / "cloud"
SHORT = (
    "--steps 480 --warmup-steps 400 --log-every 80 --evaluate-every 0 --evaluation-episodes 2 "
    "--evaluation-max-steps 10 --checkpoint-every 240 --agent.network.hidden 8 --env.num-envs 8"
)
# A bellmax that writes its arguments down, a line each, for every task of Slurm.
NOTES = """#!/bin/bash
printf '%s\\n' "$@" > "$HOME/call-${SLURM_PROCID:-0}"
"""
# What Slurm's srun does with its tasks, all on this machine.
SRUN = """#!/bin/bash
for ((i = SLURM_NTASKS - 1; i > 0; i--)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i "$@" > "$HOME/$i.log" 2>&1 &
done
SLURM_PROCID=0 SLURM_LOCALID=0 "$@"
wait
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A home whose bellmax writes down how it is called, and the environment of a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bellmax.launch.distributed.devices.configure_jax", lambda **_: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "bellmax" / "bin"
    folder.mkdir(parents=True)
    for name, text in {"bellmax": NOTES, "srun": SRUN}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    cache = [n for n in os.environ if n.startswith(("JAX_COMPILATION_", "JAX_PERSISTENT_"))]
    handed_on = ("LANG", "TMPDIR", *cache)
    return tmp_path, {
        **{name: os.environ[name] for name in handed_on if name in os.environ},
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(SOURCE),
        "JAX_PLATFORMS": "cpu",
        "RUNS": str(tmp_path / "runs"),
        "OPTIONS": SHORT,
        "PRESET": "dqn/cartpole",
    }


@pytest.fixture
def real_bellmax(place):
    """The home's bellmax is this tree's."""
    words = f'exec {shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} "$@"'
    (place[0] / "bellmax" / "bin" / "bellmax").write_text(f"#!/bin/bash\n{words}\n")


def bash(script, place, *words, **changes):
    """Run a recipe; return what it prints."""
    folder, env = place
    process = subprocess.run(
        ["bash", "-c", script, "recipe", *words],
        env={**env, **changes},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert process.returncode == 0, (process.stdout, process.stderr)
    return process.stdout


def called(script, place, *words, task=0, **changes):
    """Run a recipe; return the arguments with which it calls bellmax."""
    bash(script, place, *words, **changes)
    return (place[0] / f"call-{task}").read_text().splitlines()


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_image_installs_what_there_is():
    text = (CLOUD / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = {line.split()[0] for line in lines}
    assert words == {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "ENTRYPOINT"}
    extras = re.search(r'ARG EXTRAS="(.*)"', text)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras and set(extras[1].split(",")) <= set(known)
    assert lines[-1] == 'ENTRYPOINT ["bellmax"]'
    ignored = (CLOUD / "Dockerfile.dockerignore").read_text().split()
    assert ".git" in ignored and not {"src", "launch", "configs"} & set(ignored)


@pytest.mark.slow
def test_skypilot_trains_and_resumes(place, capsys):
    task = yaml.safe_load((CLOUD / "skypilot.yaml").read_text())
    fields = {"name", "num_nodes", "resources", "envs", "workdir", "file_mounts", "setup", "run"}
    assert set(task) == fields and task["resources"]["use_spot"] is True
    defaults = {name: str(value) for name, value in task["envs"].items()}
    env = {**defaults, **{name: place[1][name] for name in ("PRESET", "OPTIONS", "RUNS")}}
    assert task["envs"]["RUNS"] in task["file_mounts"]
    assert main(called(task["run"], place, **env, SKYPILOT_NUM_NODES="1")) == 0
    assert "480/480" in capsys.readouterr().out
    env["OPTIONS"] = SHORT.replace("--steps 480", "--steps 560")
    assert main(called(task["run"], place, **env, SKYPILOT_NUM_NODES="1")) == 0
    out = capsys.readouterr().out
    assert "at step 480" in out and "560/560" in out
    # With two nodes: what each would be told.
    nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    words = called(task["run"], place, **env, **nodes, SKYPILOT_NODE_IPS="10.0.0.4\n10.0.0.5")
    told = "--resume --coordinator 10.0.0.4:1234 --processes 2 --process 1"
    assert words[-7:] == told.split()
    subprocess.run(["bash", "-n", "-c", task["setup"]], check=True)


def slurm_job(tasks):
    """The variables that Slurm sets for `tasks` tasks on one machine."""
    return {
        "SLURM_JOB_ID": str(port()),  # jax makes the coordinator's port of it
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NNODES": "1",
    }


@pytest.mark.slow
def test_slurm_calls_bellmax_in_every_task(place, capsys):
    script = (CLOUD / "slurm.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.MULTILINE))
    assert options["signal"].startswith("TERM@") and "requeue" in options
    words = ["dqn/cartpole", *SHORT.split()]
    out = ["--out", f"{place[1]['RUNS']}/first", "--resume"]
    calls = [called(script, place, *words, task=i, **slurm_job(2)) for i in range(2)]
    expected = ["train", words[0], "--devices", "2", *words[1:], *out, "--coordinator", "auto"]
    assert calls == [expected] * 2
    assert main(called(script, place, *words, **slurm_job(1))) == 0
    assert "480/480" in capsys.readouterr().out


@pytest.mark.slow
def test_slurm_tasks_find_each_other(place, real_bellmax):
    script = (CLOUD / "slurm.sh").read_text()
    out = bash(script, place, "dqn/cartpole", *SHORT.split(), **slurm_job(2))
    assert "480/480" in out
    config = place[0] / "runs" / "first" / "config.yaml"
    assert "devices: 2" in config.read_text()
    assert "480" not in (place[0] / "1.log").read_text()
    out = bash(script, place, "dqn/cartpole", *SHORT.split(), **slurm_job(1))
    assert "resuming" in out and "at step 480" in out and "devices: 1" in config.read_text()


def jobset_recipe(place):
    """The container of cloud/jobset.yaml, and its script's variables for one process here."""
    (jobset,) = yaml.safe_load_all((CLOUD / "jobset.yaml").read_text())
    (replicated,) = jobset["spec"]["replicatedJobs"]
    (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
    env = {item["name"]: item["value"] for item in container["env"]}
    here = {name: place[1][name] for name in ("PRESET", "OPTIONS", "RUNS")}
    one = {"DEVICES": "1", "PROCESSES": "1", "COORDINATOR": f"127.0.0.1:{port()}"}
    return jobset, container, {**env, **here, **one, "JOB_COMPLETION_INDEX": "0"}


def test_jobset_says_what_its_processes_need(place):
    jobset, container, here = jobset_recipe(place)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    env = {item["name"]: item["value"] for item in container["env"]}
    assert env["PROCESSES"] == str(job["parallelism"]) == str(job["completions"])
    # JobSet's name of the first pod: <jobset>-<replicated job>-<job>-<pod>.<jobset>
    name = jobset["metadata"]["name"]
    assert env["COORDINATOR"] == f"{name}-{replicated['name']}-0-0.{name}:1234"
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert int(env["DEVICES"]) == chips * int(env["PROCESSES"])
    assert container["volumeMounts"][0]["mountPath"] == env["RUNS"]
    assert container["command"] == ["/bin/bash", "-euc"]
    (script,) = container["args"]
    words = called(script, place, **here)
    assert words[:4] == ["train", "dqn/cartpole", "--devices", "1"]
    out = f"--out {here['RUNS']}/first --resume --coordinator {here['COORDINATOR']}"
    assert words[4:] == f"{SHORT} {out} --processes 1 --process 0".split()


@pytest.mark.slow
def test_jobset_runs_its_command(place, real_bellmax):
    _, container, here = jobset_recipe(place)
    (script,) = container["args"]
    assert "480/480" in bash(script, place, **here)
