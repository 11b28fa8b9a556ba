"""Sections of benchmarks.accelerator that find something, fail, hang or crash."""

import os
import time


def find(work):
    """Two rows, a sentence and facts; the second row needs those of earlier sections."""
    yield "facts", {"device": "a card"}
    yield {"x": 1.5}
    yield "a sentence"
    yield {"x": len(work.rows["finds"]), "left": work.left() > 0}


def fail(work):
    yield {"x": 2.5}
    raise ValueError("no such thing\nwith a second line")


def hang(work):
    yield {"x": 3.5}
    time.sleep(600)


def crash(work):
    yield {"x": 4.5}
    os._exit(7)


def leave(work):
    """Exit like a peer's program that stopped."""
    yield {"x": 5.5}
    raise SystemExit("rejax_dqn.py stopped")
