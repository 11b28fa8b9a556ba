"""The Python blocks of docs/environments.md run."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "environments.md"


def test_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    names = {"__name__": "environments_page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
