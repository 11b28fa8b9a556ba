"""Files of runs in model repositories of the Hugging Face Hub, through huggingface_hub.

Only the files that `FILES` names are sent and fetched: arrays, YAML, JSON, text and pictures.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bellmax import UserError, must
from bellmax.envs.errors import in_a_sentence
from bellmax.envs.options import import_extra

PREFIX = "hf://"
CONFIG, CARD, CURVE = "config.yaml", "README.md", "curve.png"
VIDEOS = ("episodes.gif", "episodes.mp4")
POLICY = re.compile(r"policy/(best/)?(config\.yaml|seed-\d{1,10}\.msgpack)", re.ASCII)
_OTHERS = (CONFIG, CARD, CURVE, *VIDEOS, "metrics.jsonl", "versions.json")
MOST_BYTES = 2**31  # of a file that is fetched
_REPO = re.compile(r"(?:hf://)?([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?", re.ASCII)


class Repo(NamedTuple):
    """A repository; revision: a branch, tag or commit, None for the newest."""

    name: str
    revision: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}" + (f"@{self.revision}" if self.revision else "")


def is_file_of_run(name: str) -> bool:
    """Return whether a file of that path, relative to a run, is sent and fetched."""
    return name in _OTHERS or bool(POLICY.fullmatch(name))


def read_repo(text: str, field: str = "REPO") -> Repo:
    """Return the repository of `owner/name`, `hf://owner/name` or either with `@revision`.

    Raises:
      UserError: the text is none of these.
    """
    found = _REPO.fullmatch(text)
    if not found or ".." in text:
        allowed = "owner/name or hf://owner/name, and may end in @revision"
        raise UserError(must(field, allowed, repr(text)))
    return Repo(found[1], found[2])


def fetch(repo: Repo, *, policies_only: bool = False) -> Path:
    """Fetch the files of a run to huggingface_hub's cache, and return their folder.

    Without a connection, or with HF_HUB_OFFLINE, the folder that was fetched before is returned.
    It may hold other files, which an earlier program fetched.

    Args:
      repo: the repository.
      policies_only: leaves out all but the configuration and the policies.

    Raises:
      UserError: the extra `hub` is missing, or the repository cannot be read or is not a run.
    """
    hub: Any = import_extra("huggingface_hub", "hub")
    with _explained(repo, "fetched"):
        try:
            seen = hub.HfApi(library_name="bellmax").model_info(
                repo.name, revision=repo.revision, files_metadata=True, timeout=30
            )
            sizes = {one.rfilename: one.size or 0 for one in seen.siblings or []}
        except Exception as error:  # the type depends on what has no connection
            if isinstance(error, (hub.errors.HfHubHTTPError, ValueError)):
                raise  # the Hub has answered, or the name is none
            return _fetched_before(hub, repo)
        names = [name for name in sizes if is_file_of_run(name)]
        if policies_only:
            names = [name for name in names if name == CONFIG or POLICY.fullmatch(name)]
        _check(repo, {name: sizes[name] for name in names})
        # These names have no character of a pattern, and lead to nowhere outside the folder.
        with _silent():
            options = {"revision": repo.revision, "allow_patterns": names}
            return Path(hub.snapshot_download(repo.name, library_name="bellmax", **options))


def _fetched_before(hub: Any, repo: Repo) -> Path:
    try:
        options = {"revision": repo.revision, "local_files_only": True}
        return Path(hub.snapshot_download(repo.name, **options))
    except hub.errors.LocalEntryNotFoundError as error:
        if folder := getattr(error, "snapshot_path", None):
            return Path(folder)  # it lacks files, as those that are no run's were left out
        raise


def send(repo: Repo, files: Mapping[str, Path | bytes], *, private: bool) -> str:
    """Write files to a repository in one commit, and return its address.

    The repository is made if it is missing. Files of a run that it has and `files` lacks are
    removed; others stay.

    Args:
      repo: the repository.
      files: local files, or their contents, by name in the repository.
      private: whether a new repository is private.

    Raises:
      UserError: the extra `hub` is missing, or the repository cannot be written.
    """
    hub: Any = import_extra("huggingface_hub", "hub")
    with _explained(repo, "written"), _silent():
        api = hub.HfApi(library_name="bellmax")
        url = api.create_repo(repo.name, private=private, exist_ok=True)
        there = filter(is_file_of_run, api.list_repo_files(repo.name, revision=repo.revision))
        changes = [hub.CommitOperationAdd(name, file) for name, file in files.items()]
        changes += [hub.CommitOperationDelete(name) for name in there if name not in files]
        message = "Run of bellmax"
        api.create_commit(repo.name, changes, commit_message=message, revision=repo.revision)
    return str(url)


def _check(repo: Repo, sizes: Mapping[str, int]) -> None:
    if CONFIG not in sizes or not any(name.endswith(".msgpack") for name in sizes):
        has = f"{CONFIG} and policy/seed-N.msgpack, as `bellmax push` writes them"
        raise UserError(must(str(repo), has, "neither or one", verb="have"))
    for name, size in sizes.items():
        if size > MOST_BYTES:
            raise UserError(must(f"{name} of {repo}", "2 GiB or smaller", f"{size:,} bytes"))


@contextlib.contextmanager
def _explained(repo: Repo, action: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into sentences."""
    from huggingface_hub import errors  # pyright: ignore[reportMissingImports]

    with in_a_sentence(f"{repo} cannot be {action}"):
        try:
            yield
        except errors.RepositoryNotFoundError as error:
            hint = "log in with `hf auth login`, or set HF_TOKEN, if it is private or your own"
            allowed = f"a repository that can be {action} with your rights"
            raise UserError(must("REPO", allowed, repo, hint)) from error
        except errors.RevisionNotFoundError as error:
            raise UserError(must("REPO", "a repository with that revision", repo)) from error
        except errors.LocalEntryNotFoundError as error:
            reason = "the Hub cannot be reached, and this machine has no copy of it"
            raise UserError(f"{repo} cannot be {action}: {reason}") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Show no progress bars of huggingface_hub."""
    from huggingface_hub import utils  # pyright: ignore[reportMissingImports]

    before = utils.are_progress_bars_disabled()
    if not before:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            utils.enable_progress_bars()
