"""Parameters of tests, some of which are slow."""

from collections.abc import Collection, Iterable, Mapping

import pytest


def some_slow(every: Iterable, slow: Collection[str]) -> list:
    """Parameters of a test, of which those named are marked slow.

    Args:
      every: the parameters, whose str is their id, or a mapping from ids to parameters.
      slow: ids of those that are marked so; each must be there.
    """
    cases = every if isinstance(every, Mapping) else {str(x): x for x in every}
    assert set(slow) <= set(cases), f"{set(slow) - set(cases)} are no parameters"
    mark = pytest.mark.slow
    return [pytest.param(x, id=n, marks=[mark] * (n in slow)) for n, x in cases.items()]
