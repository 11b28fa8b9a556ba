"""The studies in the order in which they run: by what they settle for a minute of computing."""

from benchmarks.claims import tables_expectile, tables_munchausen, tables_retrace, tables_va
from benchmarks.claims.study import Study


def make_plan(*, small: bool = False) -> list[Study]:
    """All studies; `small` ones take seconds and show nothing, for tests."""
    if small:
        return [tables_va.make_study(actions=(2,), tuning=2, test=3, visits=20, states=4)]
    return [
        tables_va.make_study(),
        tables_munchausen.make_study(),
        *tables_retrace.make_studies(),
        tables_expectile.make_study(),
    ]
