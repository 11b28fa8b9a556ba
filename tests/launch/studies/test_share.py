"""A shared run plays as before to the bit, and one from a stranger runs and overwrites nothing."""

import pickle
import sys

import msgpack
import numpy as np
import pytest
import yaml

import bellmax
from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.reporting.hub import is_file_of_run, read_repo
from bellmax.launch.studies.evaluate import evaluate_run
from bellmax.launch.training.experiment import build
from helpers.fake_hub import FakeHub, serving
from helpers.runs import contents

constants = pytest.importorskip("huggingface_hub.constants")
NAME = "someone/pole"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub, which is that of huggingface_hub, and an empty cache."""
    hub = FakeHub()
    with serving(hub) as address:
        form = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", form)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        yield hub


def test_push_pull_evaluate_is_equal_to_the_bit(finished, hub, tmp_path, capsys):
    assert main(["push", str(finished), NAME]) == 0
    assert main(["pull", NAME, "--out", "pulled"]) == 0
    assert capsys.readouterr().out.endswith("run: pulled\n")
    pulled = tmp_path / "pulled"
    for one, other in zip(evaluate_run(finished, 3), evaluate_run(pulled, 3), strict=True):
        np.testing.assert_array_equal(one, other)
    ours, theirs = contents(finished / "policy"), contents(pulled / "policy")
    assert ours == theirs != {}
    assert contents(pulled).keys() == {
        path for path in contents(finished) if is_file_of_run(path.as_posix())
    } | {pulled.joinpath("README.md").relative_to(pulled)}
    # The policy without a folder of its own: the same actions and values.
    mine, shared = bellmax.load_policy(finished), bellmax.load_policy(f"hf://{NAME}")
    shape = 9, *build(load(finished)).observation.shape
    seen = np.random.default_rng(0).normal(size=shape), (), np.ones(9, bool)
    for function in ("act", "values"):
        found = [np.asarray(getattr(p, function)(*seen)[0]) for p in (mine, shared)]
        np.testing.assert_array_equal(*found)
    assert not [path for path in tmp_path.glob(".pulled*")]


def test_a_card_says_what_the_run_is_and_how_to_use_it(finished, hub):
    run = bellmax.load_run(finished)
    (finished / "episodes.gif").write_bytes(b"GIF89a")
    run.push(NAME, private=True)
    assert hub.made[NAME]["visibility"] == "private"
    card = hub.repos[NAME]["README.md"].decode()
    _, front, text = card.split("---\n", maxsplit=2)
    front = yaml.safe_load(front)
    assert front["library_name"] == "bellmax" and "bellmax/CartPole" in front["tags"]
    returns = list(run.metrics("evaluation")["episode_return"])
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == f"{returns[-1]:.2f} +/- 0.00"
    for part in (
        f"| 0 | {returns[-1]:.2f} |",
        "1,200 environment steps per seed, seed 0",
        f"bellmax pull hf://{NAME} --out run",
        f'bellmax.load_policy("hf://{NAME}")',
        "![Episodes](episodes.gif)",
        "(curve.png)",
        f"| bellmax | {bellmax.__version__}",
        "| commit | ",
    ):
        assert part in text, part
    assert "--trust" not in text


def test_a_push_leaves_out_loggers_and_removes_what_is_gone(finished, hub):
    path = finished / "config.yaml"
    path.write_text(path.read_text().replace("wandb: null", "wandb: secret-project"))
    hub.repos[NAME] = {"policy/seed-7.msgpack": b"old", "theirs.txt": b"kept"}
    bellmax.load_run(finished).push(NAME)
    assert b"secret-project" not in hub.repos[NAME]["config.yaml"]
    assert "policy/seed-7.msgpack" not in hub.repos[NAME]
    assert hub.repos[NAME]["theirs.txt"] == b"kept"
    assert not [name for name in hub.repos[NAME] if "checkpoints" in name]


def test_a_link_in_a_run_is_not_followed_by_a_push(finished, hub, tmp_path):
    (tmp_path / "secret").write_text("a key")
    (finished / "episodes.gif").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="episodes.gif must be a file, got a link"):
        bellmax.load_run(finished).push(NAME)
    (finished / "episodes.gif").unlink()
    (finished / "policy").rename(tmp_path / "elsewhere")
    (finished / "policy").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="must be a file, got a link"):
        bellmax.load_run(finished).push(NAME)
    assert NAME not in hub.repos


class Boom:
    """Pickled, it leaves a file where it is unpickled."""

    def __reduce__(self):
        return open, ("unpickled", "w")


def shared(hub, finished, **changes):
    """Share a run whose files are changed."""
    bellmax.load_run(finished).push(NAME)
    for name, data in changes.items():
        hub.repos[NAME][name] = data


def test_names_that_lead_elsewhere_are_not_fetched(finished, hub, tmp_path):
    bad = ("../evil", "policy/../../evil", "policy/../../evil/seed-0.msgpack", "/tmp/evil", "evil")
    links = {"policy/best/../../../evil.msgpack": b"", "curve.svg": b"<svg/>", "run.py": b"1"}
    shared(hub, finished, **dict.fromkeys(bad, b"evil"), **links)
    before = set(contents(tmp_path))
    run = bellmax.pull(NAME, tmp_path / "pulled")
    names = {path.as_posix() for path in contents(run.path)}
    assert names == {name for name in hub.repos[NAME] if is_file_of_run(name)}
    new = {path for path in set(contents(tmp_path)) - before if path.parts[0] != "cache"}
    assert {path.parts[0] for path in new} == {"pulled"}
    assert not [request for request in hub.requests if "evil" in request or "run.py" in request]
    assert not [path for path in run.path.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("content", ["pickle", "object array", "truncated"])
def test_a_policy_that_is_no_arrays_is_refused(finished, hub, tmp_path, content):
    name, good = "policy/seed-0.msgpack", (finished / "policy" / "seed-0.msgpack").read_bytes()
    if content == "object array":
        # As flax packs arrays, but of objects.
        array = msgpack.packb(((3,), "object", bytes(24)))
        data = msgpack.packb({"params": msgpack.ExtType(1, array), "statistics": {}})
    else:
        data = {"pickle": pickle.dumps(Boom()), "truncated": good[:-7]}[content]
    shared(hub, finished, **{name: data})
    run = bellmax.pull(NAME, tmp_path / "pulled")
    for use in (run.policy, lambda: run.evaluate(1), lambda: bellmax.load_policy(f"hf://{NAME}")):
        with pytest.raises(UserError, match="seed-0.msgpack is damaged"):
            use()
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    "text",
    [
        "agent: !!python/object/apply:os.mkdir [ran]",
        "agent: !!python/name:os.mkdir\nsteps: 3",
        "agent: {name: !!python/object/new:pathlib.Path [ran]}",
    ],
)
def test_tags_of_yaml_make_nothing(finished, hub, tmp_path, text):
    shared(hub, finished, **{"config.yaml": text.encode()})
    with pytest.raises(UserError, match="config.yaml, line 1"):
        bellmax.pull(NAME, tmp_path / "pulled")
    with pytest.raises(UserError, match="config.yaml, line 1"):
        bellmax.load_policy(f"hf://{NAME}")
    assert not (tmp_path / "pulled").exists() and not (tmp_path / "ran").exists()


def test_code_that_a_pulled_run_names_needs_trust(finished, hub, tmp_path, monkeypatch, capsys):
    (tmp_path / "stranger.py").write_text("import pathlib\npathlib.Path('imported').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config["env"]["name"] = "stranger:make"
    path = finished / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["push", str(finished), NAME]) == 0  # it imports nothing
    assert "code of its author: `stranger:make`" in hub.repos[NAME]["README.md"].decode()
    assert main(["pull", NAME, "--out", "pulled"]) == 0
    assert "env.name names code" in capsys.readouterr().out
    for words in (["evaluate", "pulled"], ["export", "pulled"], ["resume", "pulled"]):
        assert main(words) == 2
        assert "must be trusted before its code is imported" in capsys.readouterr().err
    for use in (lambda: bellmax.pull(NAME, "other"), lambda: bellmax.load_policy(f"hf://{NAME}")):
        with pytest.raises(UserError, match="must be trusted"):
            use()
    assert not (tmp_path / "imported").exists() and "stranger" not in sys.modules


def test_mistakes_are_sentences_and_leave_nothing(finished, hub, tmp_path, monkeypatch, capsys):
    hub.repos["someone/empty"] = {"README.md": b""}
    hub.repos["someone/large"] = {"config.yaml": b"", "policy/seed-0.msgpack": b""}
    cases = [
        (f"push run {NAME} --out x", "unknown option"),
        ("push run", "REPO must be given first"),
        ("push run pole", "REPO must be owner/name or hf://owner/name"),
        ("push run ../pole", "REPO must be owner/name"),
        ("push nowhere a/b", "there is no run nowhere"),
        ("pull someone/nothing --out new", "REPO must be a repository that can be fetched with"),
        ("pull someone/empty --out new", "must have config.yaml and policy/seed-N.msgpack"),
        ("pull someone/large@v1 --out new", "REPO must be a repository with that revision"),
        ("pull someone/large --out run", "run holds a run already"),
    ]
    for line, part in cases:
        assert main(line.split()) == 2, line
        assert part in capsys.readouterr().err, line
    monkeypatch.setattr("bellmax.launch.reporting.hub.MOST_BYTES", 100)
    bellmax.load_run(finished).push(NAME)
    assert main(["pull", NAME, "--out", "new"]) == 2
    assert "2 GiB or smaller" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["pull", NAME, "--out", "new"]) == 2
    assert capsys.readouterr().err.endswith('[hub]"\n')


def test_a_policy_that_was_fetched_is_read_without_a_connection(finished, hub, monkeypatch):
    bellmax.load_run(finished).push(NAME)
    bellmax.load_policy(f"hf://{NAME}@main")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert bellmax.load_policy(f"hf://{NAME}").initial_memory(1) == ()
    assert len(hub.requests) == asked
    with pytest.raises(UserError, match="the Hub cannot be reached"):
        bellmax.load_policy("hf://someone/else")


def test_a_pulled_run_is_not_resumed_but_trained_again(finished, hub, tmp_path):
    bellmax.load_run(finished).push(NAME)
    run = bellmax.pull(NAME, tmp_path / "pulled")
    with pytest.raises(UserError, match="checkpoint"):
        run.resume(2000)
    assert load(run.path).steps == 1200


@pytest.mark.parametrize(
    ("text", "repo"),
    [
        ("a/b", ("a/b", None)),
        ("hf://a-1/b.c", ("a-1/b.c", None)),
        ("hf://a/b@refs/pr/1", ("a/b", "refs/pr/1")),
    ],
)
def test_names_of_repositories(text, repo):
    assert read_repo(text) == repo


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "a/b@", "a/b@../c", "hf:/a/b", "http://a/b"])
def test_other_names_are_refused(text):
    with pytest.raises(UserError, match="REPO must be"):
        read_repo(text)
