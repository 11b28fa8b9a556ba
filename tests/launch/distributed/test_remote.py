"""Runs in object stores: what is copied, in which order, and that they resume."""

import json

import pytest

from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.distributed.remote import Mirror, RemoteError, TakenError, mirrored
from helpers.small import SMALL
from helpers.stores import object_store

ADDRESS = "s3://bucket/runs/first"


@pytest.fixture
def store():
    with object_store() as found:
        yield found


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def content(store):
    cut = len("/bucket/runs/first/")
    return {
        n[cut:]: store.cat_file(store(), n).decode(errors="replace")
        for n in store.names()
        if "owner" not in n
    }


def test_only_what_changed_is_copied_and_a_manifest_last(store, tmp_path):
    mirror = Mirror(ADDRESS, tmp_path, trains=True)
    mirror.push()
    assert store.names() == []
    manifest = {"checkpoints__5__manifest.json": "{}"}
    write(tmp_path, a="1", checkpoints__5__zz="2", b__c="3", d__e="x", **manifest)
    write(tmp_path, **{"f.tmp": "4"})
    mirror.push()
    expected = {"a": "1", "checkpoints/5/zz": "2", "b/c": "3", "checkpoints/5/manifest.json": "{}"}
    assert content(store) == expected | {"d/e": "x"}
    assert store.written[-1].endswith("5/manifest.json")
    store.written.clear()
    write(tmp_path, a="longer")
    mirror.push()
    assert store.written == ["/bucket/runs/first/a"] and content(store)["a"] == "longer"


def test_what_is_removed_here_is_removed_there_after_the_new_files(store, tmp_path):
    mirror = Mirror(ADDRESS, tmp_path, trains=True)
    write(tmp_path, old="1", kept="2")
    mirror.push()
    (tmp_path / "old").unlink()
    write(tmp_path, new="3")
    mirror.push()
    assert content(store) == {"kept": "2", "new": "3"}


def test_a_copy_has_all_files_but_those_left_out(store, tmp_path):
    write(tmp_path, **{"config.yaml": "a", "checkpoints__7__replay__x": "b", "log": "c"})
    Mirror(ADDRESS, tmp_path).push()
    with mirrored(ADDRESS, leaves_out=lambda name: "/replay/" in name) as mirror:
        found = {path.name for path in mirror.local.rglob("*") if path.is_file()}
        assert found == {"config.yaml", "log"} and (mirror.local / "checkpoints").is_dir()
        store.written.clear()
        local = mirror.local
    assert store.written == [] and not local.exists()
    assert "checkpoints/7/replay/x" in content(store)  # what was left out stays


def test_the_process_that_began_last_owns_the_folder(store, tmp_path):
    first, second = (Mirror(ADDRESS, tmp_path / name, trains=True) for name in "ab")
    write(tmp_path / "a", x="1")
    first.push()
    second.pull()
    write(tmp_path / "b", x="2", y="3")
    second.push()
    write(tmp_path / "a", x="late")
    with pytest.raises(TakenError, match="another process has begun to write s3://bucket/runs/fi"):
        first.try_push()
    assert content(store) == {"x": "2", "y": "3"}


def test_a_store_that_fails_is_tried_again_and_the_files_are_kept_at_last(store, tmp_path):
    with pytest.raises(RemoteError) as error, mirrored(ADDRESS, trains=True) as mirror:
        write(mirror.local, x="1")
        store.broken = True
        assert "the next interval tries again" in (mirror.try_push() or "")
        store.broken = False
        assert mirror.try_push() is None and content(store) == {"x": "1"}
        write(mirror.local, x="22")
        store.broken = True
    local = mirror.local
    reason = "OSError: the store does not answer"
    assert (
        str(error.value) == f"{ADDRESS} cannot be written ({reason}); its files are kept in {local}"
    )
    assert (local / "x").read_text() == "22"


def test_messages_have_the_name_in_the_store(store):
    with pytest.raises(UserError) as error, mirrored(ADDRESS) as mirror:
        raise UserError(f"{mirror.local / 'config.yaml'} is odd")
    assert str(error.value) == f"{ADDRESS}/config.yaml is odd"


def test_a_run_in_a_store_trains_resumes_and_plays(store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    train = ["train", "small.yaml", "--out", ADDRESS, "--resume"]
    assert main([*train, "--steps=600", "--replay.capacity=500"]) == 0
    assert f"run: {ADDRESS}\n" in capsys.readouterr().out
    files = content(store)
    assert {"config.yaml", "metrics.jsonl", "policy/seed-0.msgpack", "curve.png"} <= set(files)
    assert "checkpoints/600/manifest.json" in files
    assert main([*train, "--steps=800", "--replay.capacity=500"]) == 0
    assert f"resuming {ADDRESS} at step 600" in capsys.readouterr().out
    files = content(store)
    assert {json.loads(line)["step"] for line in files["metrics.jsonl"].splitlines()} >= {800}
    assert "checkpoints/800/manifest.json" in files
    assert not [name for name in files if name.startswith("checkpoints/400/")]  # two are kept
    assert main(["evaluate", ADDRESS, "--episodes=2"]) == 0
    assert "at step 800" in capsys.readouterr().out
    assert main(["plot", ADDRESS]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{ADDRESS}/curve.png", f"{ADDRESS}/curve.svg"]
    assert main(["train", "small.yaml", "--out", ADDRESS]) == 2
    hint = f"{ADDRESS} holds a run already; continue it with `bellmax resume {ADDRESS}`"
    assert hint in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("s3*"))


@pytest.mark.parametrize(
    "command",
    [
        ["sweep", "dqn/cartpole", "--out", "gs://bucket/a"],
        ["merge", "a", "b", "--out", "gs://bucket/a"],
        ["train", "dqn/cartpole", "--out", "gs://b/a", "--coordinator", "auto"],
    ],
)
def test_other_folders_must_be_on_this_machine(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert " must be a " in capsys.readouterr().err and not list(tmp_path.iterdir())
