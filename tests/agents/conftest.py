"""Set-up of tests of agents."""

import pytest

from helpers.compiling import compiles_soon


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile without most optimisations, for programs that run for less time."""
    with compiles_soon():
        yield
