"""Tests of adapters and tasks compile without optimisation: compiling takes longer than running."""

import pytest

from helpers.compiling import compiles_soon


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    with compiles_soon():
        yield
