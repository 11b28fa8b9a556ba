"""The block of docs/losses/sequence_trainers.md that needs google-tunix, where installed."""

import pathlib

import jax
import pytest

from helpers.pages import blocks

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "losses" / "sequence_trainers.md"


@pytest.mark.peer
@pytest.mark.filterwarnings("default")  # tunix imports much that warns
def test_the_trainer_of_tunix_learns():
    pytest.importorskip("tunix")
    (block,) = [text for options, text in blocks(PAGE, "python") if options == "notest"]
    assert "tunix" in block
    with jax.numpy_rank_promotion("allow"):
        exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})
