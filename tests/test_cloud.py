"""The recipes of cloud/: they parse, and the commands in them run as they are, on this machine."""

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

ROOT = pathlib.Path(__file__).parents[1]
CLOUD = ROOT / "cloud"
PROGRAM = "import sys; from bellmax.launch.cli import main; sys.exit(main())"
SHORT = (
    "--steps 480 --warmup-steps 400 --log-every 80 --evaluate-every 0 --evaluation-episodes 2 "
    "--evaluation-max-steps 10 --checkpoint-every 240 --agent.network.hidden 8 --env.num-envs 8"
)
# What Slurm's srun does with its tasks, all on this machine.
SRUN = """#!/bin/bash
for ((i = SLURM_NTASKS - 1; i > 0; i--)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i "$@" > "$LOGS/$i.log" 2>&1 &
done
SLURM_PROCID=0 SLURM_LOCALID=0 "$@"
wait
"""


@pytest.fixture
def place(tmp_path):
    """A home whose bellmax is this one, and the environment to run a recipe in."""
    folder = tmp_path / "bellmax" / "bin"
    folder.mkdir(parents=True)
    words = f'exec {shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} "$@"'
    for name, text in {"bellmax": f"#!/bin/bash\n{words}\n", "srun": SRUN}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return tmp_path, {
        **{name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ},
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LOGS": str(tmp_path),
        "PYTHONPATH": str(ROOT / "src"),
        "JAX_PLATFORMS": "cpu",
        "RUNS": str(tmp_path / "runs"),
        "OPTIONS": SHORT,
        "PRESET": "dqn/cartpole",
    }


def bash(script, place, *words, **changes):
    folder, env = place
    process = subprocess.run(
        ["bash", "-c", script, "recipe", *words],
        env={**env, **changes},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, (process.stdout, process.stderr)
    return process.stdout


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


def test_skypilot_trains_and_goes_on(place):
    task = yaml.safe_load((CLOUD / "skypilot.yaml").read_text())
    fields = {"name", "num_nodes", "resources", "envs", "workdir", "file_mounts", "setup", "run"}
    assert set(task) == fields and task["resources"]["use_spot"] is True
    defaults = {name: str(value) for name, value in task["envs"].items()}
    env = {**defaults, **{name: place[1][name] for name in ("PRESET", "OPTIONS", "RUNS")}}
    assert task["envs"]["RUNS"] in task["file_mounts"]
    out = bash(task["run"], place, **env, SKYPILOT_NUM_NODES="1")
    assert "480/480" in out
    env["OPTIONS"] = SHORT.replace("--steps 480", "--steps 560")
    out = bash(task["run"], place, **env, SKYPILOT_NUM_NODES="1")
    assert "at step 480" in out and "560/560" in out
    # With two nodes: what each would be told.
    shown = place[0] / "bellmax" / "bin" / "bellmax"
    shown.write_text('#!/bin/bash\necho "$@"\n')
    nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    out = bash(task["run"], place, **env, **nodes, SKYPILOT_NODE_IPS="10.0.0.4\n10.0.0.5")
    assert out.endswith("--resume --coordinator 10.0.0.4:1234 --processes 2 --process 1\n")
    subprocess.run(["bash", "-n", "-c", task["setup"]], check=True)


def test_slurm_tasks_find_each_other(place):
    script = (CLOUD / "slurm.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", script, re.MULTILINE))
    assert options["signal"].startswith("TERM@") and "requeue" in options
    job = {
        "SLURM_JOB_ID": str(port()),  # jax makes the coordinator's port of it
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NNODES": "1",
    }
    out = bash(script, place, "dqn/cartpole", *SHORT.split(), **job)
    assert "480/480" in out
    config = place[0] / "runs" / "first" / "config.yaml"
    assert "devices: 2" in config.read_text()
    assert "480" not in (place[0] / "1.log").read_text()
    again = {**job, "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}
    out = bash(script, place, "dqn/cartpole", *SHORT.split(), **again)
    assert "resuming" in out and "at step 480" in out and "devices: 1" in config.read_text()


def test_jobset_runs_its_command(place):
    (jobset,) = yaml.safe_load_all((CLOUD / "jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    env = {item["name"]: item["value"] for item in container["env"]}
    assert env["PROCESSES"] == str(job["parallelism"]) == str(job["completions"])
    # JobSet's name of the first pod: <jobset>-<replicated job>-<job>-<pod>.<jobset>
    name = jobset["metadata"]["name"]
    assert env["COORDINATOR"] == f"{name}-{replicated['name']}-0-0.{name}:1234"
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert int(env["DEVICES"]) == chips * int(env["PROCESSES"])
    assert container["volumeMounts"][0]["mountPath"] == env["RUNS"]
    here = {name: place[1][name] for name in ("PRESET", "OPTIONS", "RUNS")}
    one = {"DEVICES": "1", "PROCESSES": "1", "COORDINATOR": f"127.0.0.1:{port()}"}
    assert container["command"] == ["/bin/bash", "-euc"]
    (script,) = container["args"]
    out = bash(script, place, **{**env, **here, **one, "JOB_COMPLETION_INDEX": "0"})
    assert "480/480" in out
