"""The published package works outside the repository: sdist, wheel, import, command line."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("agents", "configs", "envs", "launch", "losses", "networks")


def build(*arguments, folder):
    command = [sys.executable, "-m", "hatchling", "build", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made from the source distribution as pip makes it, not from the repository."""
    folder = tmp_path_factory.mktemp("dist")
    build("-t", "sdist", "-d", str(folder), folder=ROOT)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    unpacked = next(path for path in folder.iterdir() if path.is_dir())
    build("-t", "wheel", "-d", str(folder), folder=unpacked)
    return next(folder.glob("*.whl"))


def sources():
    paths = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.is_file()]
    wanted = {p.relative_to(ROOT).as_posix() for p in paths if p.suffix in (".py", ".yaml")}
    return {f"bellmax/{path}" for path in wanted} | {"bellmax/__init__.py", "bellmax/py.typed"}


def test_the_wheel_holds_every_module_preset_and_the_licence_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = {name for name in names if name.startswith("bellmax/")}
    assert packaged == sources()
    assert any(name.endswith(".yaml") for name in packaged)
    rest = {name.split("/", 1)[1] for name in names - packaged}
    assert rest == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def test_the_metadata_suit_a_package_index(wheel):
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    head, _, readme = archive.read(name).decode().partition("\n\n")
    assert re.search(r"^Version: \d+\.\d+\.\d+", head, re.MULTILINE)
    assert "Description-Content-Type: text/markdown" in head
    assert head.count("Project-URL: ") == 4 and "License-Expression: Apache-2.0" in head
    # On the index nothing is relative to the repository.
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"\]\(", readme)) == len(re.findall(r"\]\(", text)) > 20
    assert not re.findall(r"\]\((?!https://|#)[^)]*\)", readme)


def test_a_tree_without_git_has_the_version_of_the_next_release(tmp_path):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "hatchling", "version"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    expected = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert found.stdout.strip() == expected["tool"]["hatch"]["version"]["fallback-version"]


@pytest.mark.slow
def test_the_installed_wheel_runs_outside_of_the_repository(wheel, tmp_path):
    """In an environment of its own, where the packages that bellmax needs are ours."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    site = next((tmp_path / "venv" / "lib").glob("python3*/site-packages"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site]
    subprocess.run([*command, wheel], check=True, timeout=120)
    # After its own packages the environment sees ours, less the editable install of this tree.
    import jax

    (site / "ours.pth").write_text(str(pathlib.Path(jax.__file__).parents[1]))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*arguments):
        command = [tmp_path / "venv" / "bin" / "python", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )

    code = "import bellmax.losses, bellmax.launch.cli; print(bellmax.losses.__file__)"
    result = run("-W", "error", "-c", code)
    assert result.returncode == 0, result.stderr
    assert pathlib.Path(result.stdout.strip()).is_relative_to(site)
    main = "import sys; from bellmax.launch.cli import main; sys.exit(main())"
    presets = run("-c", main, "list", "presets")
    assert presets.returncode == 0, presets.stderr
    expected = (p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml"))
    expected = (p for p in expected if p.parent.name != "uncertainty")
    listed = [line.split()[0] for line in presets.stdout.splitlines()]
    assert listed == sorted(p.with_suffix("").as_posix() for p in expected)
    shown = run("-c", main, "show-config", "munchausen_dqn/cartpole")
    assert shown.returncode == 0 and "name: munchausen_dqn" in shown.stdout
