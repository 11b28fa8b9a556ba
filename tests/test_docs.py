"""Pages: Python blocks run, commands in sentences exist, links are not broken.

Blocks marked `python` run, those of a page one after the other in one namespace, in an empty
folder; `python notest` needs what the reader has. Shell commands: test_docs_commands.py.
"""

import re
import sys
import types

import jax
import pytest

from bellmax.launch.cli.commands import COMMANDS
from helpers.compiling import compiles_soon
from helpers.pages import PAGES, ROOT, RUN_PAGES, blocks, commands, named, prose

SLOW = {"curiosity.md", "one_loss_in_your_code.md", "sequence_trainers.md"}  # many programs
# Python blocks marked `notest`. Those of google-tunix, of an exported file and of a repository are
# run by test_sequence_trainers.py, test_export.py and test_share.py.
NOT_TESTED = {"README.md": 1, "export.md": 1, "sequence_trainers.md": 1, "sharing.md": 1}


@pytest.mark.parametrize("page", named((p for p in RUN_PAGES if blocks(p, "python")), slow=SLOW))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(page.stem)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    skipped = 0
    for options, text in blocks(page, "python"):
        assert options in ("", "notest"), f"{options} is no option of a Python block"
        skipped += options == "notest"
        if not options:
            with jax.numpy_rank_promotion("allow"), compiles_soon():  # the former as for readers
                exec(compile(text, str(page), "exec"), module.__dict__)
    assert skipped == NOT_TESTED.get(page.name, 0)


@pytest.mark.parametrize("page", named(PAGES))
def test_commands_in_sentences_exist(page):
    for command in re.findall(r"`bellmax ([a-z][\w-]*)", prose(page)):
        assert command in COMMANDS, f"bellmax {command}"


@pytest.mark.parametrize("page", named(PAGES))
def test_links_within_the_repository_lead_somewhere(page):
    assert broken_links(prose(page), page.parent) == []


def test_every_page_of_an_agent_is_in_the_list_of_agents():
    folder = ROOT / "docs" / "agents"
    listed = re.findall(r"\]\((\w+\.md)\)", (folder / "index.md").read_text())
    assert {path.name for path in folder.glob("*.md")} - {"index.md"} == set(listed)


def broken_links(text, folder):
    """The targets of Markdown links that are neither addresses nor files below a folder."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    targets = [t for t in targets if not re.match(r"[a-z]+:", t) and not t.startswith("#")]
    return [t for t in targets if not (folder / t.partition("#")[0]).exists()]


def test_a_broken_link_and_an_untested_block_would_be_found(tmp_path):
    assert broken_links("[a](no/such.md) [b](#here) [c](https://x.y)", tmp_path) == ["no/such.md"]
    page = tmp_path / "page.md"
    page.write_text("```python notest\n1\n```\n\n```bash\nls && bellmax doctor  # what\n```\n")
    assert blocks(page, "python") == [("notest", "1\n")]
    assert commands(page) == ["ls", "bellmax doctor"]
