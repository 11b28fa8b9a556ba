"""The studies in the order in which they run: by what they settle for a minute of computing."""

from benchmarks.claims import (
    study_agents,
    study_exploration,
    study_minatar,
    study_pendulum,
    study_redundant,
    study_retrace,
    tables_expectile,
    tables_munchausen,
    tables_retrace,
    tables_va,
)
from benchmarks.claims.study import Study

# (study, task) in the order in which they run; what is not named comes after, in the plan's order.
FIRST = (
    *(("va_tables", f"{kind}-{n}") for n in (2, 10, 50, 5) for kind in ("uniform", "skewed")),
    ("munchausen_tables", "actions-4-noise-1"),
    ("retrace_far", "corridor-20"),
    ("retrace_far", "deepsea-10"),
    ("retrace_random", "random-8"),
    ("expectile_tables", "noise-3"),
    ("munchausen_tables", "actions-4-noise-3"),
    ("expectile_tables", "noise-0"),
    ("exploration_deepsea", "deepsea-10"),
    ("expectrl_control", "pendulum"),
    ("va_redundant", "copies-10"),
    ("exploration_aliased", "aliased-10"),
    ("retrace_control", "mountain_car"),
    ("munchausen_tables", "actions-20-noise-1"),
    ("exploration_deepsea", "deepsea-20"),
    ("retrace_far", "corridor-50"),
)


def ordered(studies: list[Study]) -> list[tuple[Study, str]]:
    """Every study and task, those of FIRST before the others."""
    pairs = [(study, task) for study in studies for task in study.tasks]
    rank = {pair: number for number, pair in enumerate(FIRST)}
    return sorted(pairs, key=lambda pair: rank.get((pair[0].name, pair[1]), len(rank)))


def make_plan(*, small: bool = False) -> list[Study]:
    """All studies; `small` ones take seconds and show nothing, for tests."""
    if small:
        few = {"tuning": 2, "test": 3, "visits": 20, "states": 4}
        return [tables_va.make_study(actions=(2,), sides=("q_learning", "va"), **few)]
    return [
        tables_va.make_study(),
        tables_munchausen.make_study(),
        *tables_retrace.make_studies(),
        tables_expectile.make_study(),
        study_exploration.make_deepsea(),
        study_pendulum.make_study(),
        study_redundant.make_study(),
        study_retrace.make_study(),
        study_exploration.make_ablations(),
        study_minatar.make_munchausen(),
        study_minatar.make_retrace(),
        study_minatar.make_va(),
        study_minatar.make_munchausen(1_000_000),
        study_agents.make_study(),
    ]
