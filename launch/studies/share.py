"""Sharing of runs: what is sent to a repository of the Hub, and what is fetched from one."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bellmax import UserError, must
from bellmax.launch.config.trust import code_in
from bellmax.launch.config.yaml_files import dump_yaml, read_yaml
from bellmax.launch.distributed.files import make_folder, sync, write_whole
from bellmax.launch.reporting import hub
from bellmax.launch.reporting.card import model_card
from bellmax.launch.reporting.metrics import FILE, read_metrics
from bellmax.launch.reporting.plot import plot_runs
from bellmax.launch.training.folders import check_new, check_writable

# Whoever gets the run reports to nobody.
_PRIVATE = {"loggers": [], "wandb": None, "tensorboard": False}


def push_run(
    run: Path,
    repo: str,
    *,
    private: bool = False,
    say: Callable[[str], object] = lambda sentence: None,
) -> str:
    """Send a run's policies, configuration, metrics, curve, video and model card to a repository.

    Nothing is imported that the configuration names. The loggers of the configuration are left
    out, and so are the checkpoints.

    Args:
      run: the run's folder.
      repo: `owner/name`; it is made if it is missing.
      private: whether a new repository is private.
      say: takes lines for the user.

    Returns:
      The address of the repository.

    Raises:
      UserError: the run has no policy, or the repository cannot be written.
    """
    target = hub.read_repo(repo)
    config = read_yaml(run / hub.CONFIG)
    if not isinstance(config, Mapping):
        raise UserError(must(str(run / hub.CONFIG), "a mapping of keys", repr(config)))
    rows = read_metrics(run, say) if (run / FILE).is_file() else []
    if rows and not (run / hub.CURVE).exists():
        plot_runs([run])
    files = _files(run)
    if not any(name.endswith(".msgpack") for name in files):
        hint = "a run has them from its first checkpoint on"
        raise UserError(
            must(str(run), "policies, policy/seed-N.msgpack", "none", hint, verb="have")
        )
    config = {**config, **_PRIVATE}
    files[hub.CONFIG] = dump_yaml(config).encode()
    card = model_card(target, config, rows, _read_versions(run), files)
    files[hub.CARD] = card.encode()
    url = hub.send(target, files, private=private)
    size = sum(len(x) if isinstance(x, bytes) else x.stat().st_size for x in files.values())
    say(f"{url}: {len(files)} files, {size / 1e6:.1f} MB")
    return url


def pull_run(
    repo: str,
    out: Path | None = None,
    *,
    say: Callable[[str], object] = lambda sentence: None,
) -> Path:
    """Write the run in a repository to a new folder.

    Only files that `push_run` sends are written, as plain files, and nothing is run or imported.

    Args:
      repo: `owner/name`, with `@revision` for a branch, tag or commit.
      out: a new or empty folder; runs/NAME by default.
      say: takes lines for the user.

    Returns:
      The folder.

    Raises:
      UserError: the repository cannot be read, or holds no run.
    """
    source = hub.read_repo(repo)
    out = Path("runs") / source.name.rpartition("/")[2] if out is None else out
    check_writable(out)
    check_new(out)
    fetched = hub.fetch(source)
    names = [path.relative_to(fetched).as_posix() for path in fetched.rglob("*") if path.is_file()]
    names = [name for name in names if hub.is_file_of_run(name)]
    config = read_yaml(fetched / hub.CONFIG)
    make_folder(out.absolute().parent)
    unfinished = out.absolute().with_name(f".{out.name}.{os.getpid()}")
    unfinished.mkdir()
    try:
        for name in names:
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(unfinished / name, (fetched / name).read_bytes())
        os.replace(unfinished, out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync(out.absolute().parent)
    for key, code in code_in(config if isinstance(config, Mapping) else {}).items():
        say(f"{key} names code that is not part of the run: {', '.join(code)}; see --trust")
    say(f"run: {out}")
    return out


def _files(run: Path) -> dict[str, Any]:
    """Return the files of a run that are sent, by name.

    Raises:
      UserError: one is a link, which may lead anywhere.
    """
    files = {}
    for path in [*run.iterdir(), *run.glob("policy/*"), *run.glob("policy/best/*")]:
        name = path.relative_to(run).as_posix()
        if name != hub.CARD and hub.is_file_of_run(name):
            if path.is_symlink() or path.resolve() != run.resolve() / name:
                raise UserError(must(str(path), "a file", "a link", "copy what it leads to"))
            files[name] = path
    return dict(sorted(files.items()))


def _read_versions(run: Path) -> Mapping[str, Any]:
    try:
        versions = json.loads((run / "versions.json").read_text())
    except (OSError, ValueError):  # lost or damaged
        return {}
    return versions if isinstance(versions, Mapping) else {}
