"""Programs of these tests run for less time than compiling them takes."""

import pytest

from helpers.compiling import compiles_soon


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    with compiles_soon():
        yield
