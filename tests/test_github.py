"""Workflows, forms of issues, citation and addresses of the repository are valid."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
GITHUB = ROOT / ".github"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(p for p in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")


def check(schema, *paths):
    """The exit code and output of a check against a schema that comes with check-jsonschema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *paths]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return result.returncode, result.stdout


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("vendor.citation-file-format", [ROOT / "CITATION.cff"]),
    ],
)
def test_files_are_valid(schema, paths):
    assert paths
    code, output = check(schema, *paths)
    assert code == 0, output


def test_a_wrong_workflow_is_found(tmp_path):
    text = (GITHUB / "workflows" / "docs.yml").read_text()
    wrong = tmp_path / "docs.yml"
    wrong.write_text(text.replace("runs-on:", "runs-of:"))
    assert check("vendor.github-workflows", wrong)[0] == 1


def jobs(name):
    return yaml.safe_load((GITHUB / "workflows" / f"{name}.yml").read_text())["jobs"]


def test_every_declared_python_is_tested():
    pattern = re.compile(r"Programming Language :: Python :: (3\.\d+)$")
    declared = [m[1] for c in PYPROJECT["project"]["classifiers"] if (m := pattern.match(c))]
    assert jobs("tests")["tests"]["strategy"]["matrix"]["python"] == declared
    assert declared[0] == PYPROJECT["project"]["requires-python"].removeprefix(">=")


def test_commands_of_workflows_name_extras_and_files_that_exist():
    optional = PYPROJECT["project"]["optional-dependencies"]
    for path in WORKFLOWS:
        text = path.read_text()
        named = re.findall(r'-e "\.\[([^]$]+)\]"', text) + re.findall(r'extras: "?([\w,-]+)', text)
        assert not [e for group in named for e in group.split(",") if e not in optional], path
        for file in re.findall(r"(?:-c |run: )(\.?[\w/]+(?:\.txt|/run))\b", text):
            assert (ROOT / file).exists() or file == "users.txt", file


def test_no_text_of_strangers_reaches_a_shell():
    """Titles and branch names are inserted into scripts as they are: none is used."""
    for path in WORKFLOWS:
        found = re.findall(r"\$\{\{\s*([\w.]+)", path.read_text())
        assert not [f for f in found if f.startswith(("github.event.", "github.head_ref"))], path


def test_only_publishing_jobs_may_write():
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        writing = {
            name
            for name, job in workflow["jobs"].items()
            if "write" in job.get("permissions", {}).values()
        }
        assert writing <= {"deploy", "publish"}


def test_the_owner_of_the_repository_is_named_in_one_file():
    """So that it is easy to change; CONTRIBUTING.md says how."""
    urls = PYPROJECT["project"]["urls"]
    owner = urls["Repository"].removeprefix("https://github.com/").removesuffix("/bellmax")
    assert re.fullmatch(r"[\w-]+", owner) and all(owner in url for url in urls.values())
    address = re.compile(rf"{owner}(?:/bellmax|\.github\.io)")
    texts = [p for p in ROOT.rglob("*") if p.suffix in (".md", ".toml", ".yml", ".cff", ".ipynb")]
    found = {
        p.relative_to(ROOT).as_posix()
        for p in texts
        if ".venv" not in p.parts and p.is_file() and address.search(p.read_text())
    }
    assert found == {"pyproject.toml"}
