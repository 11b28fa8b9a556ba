"""Runs the queue of claims, says how far it is, or writes the page of results.

    python -m benchmarks.claims                  # runs what is not finished, in order
    python -m benchmarks.claims --only byol_explore
    python -m benchmarks.claims --status         # hours used and left, cells finished
    python -m benchmarks.claims --page           # docs/results/claims.md and its figures

Kill it at any time and start it again: a finished job is never repeated, and a training run
continues from its last checkpoint.
"""

import argparse
from pathlib import Path

from benchmarks.claims import ROOT
from benchmarks.claims.plan import make_plan, ordered
from benchmarks.claims.queue import report_unknown, run_queue, status
from benchmarks.claims.store import Store
from timing import table

RESULTS = Path(__file__).with_name("results")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="CLAIM", help="a claim, or one study of it")
    parser.add_argument("--status", action="store_true", help="print how far the queue is")
    parser.add_argument("--page", action="store_true", help="write the page and its figures")
    parser.add_argument("--max-minutes", type=float, default=1e9, help="leave longer jobs pending")
    parser.add_argument("--small", action="store_true", help="seconds long, as the tests run it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs/results", help="of the page")
    given = parser.parse_args(arguments)
    studies = make_plan(small=given.small)
    if given.only:
        names = [name for study in studies for name in (study.claim, study.name)]
        report_unknown(given.only, list(dict.fromkeys(names)))
        studies = [s for s in studies if given.only in (s.claim, s.name)]
    store = Store(given.results)
    if given.status:
        print(table(status(studies, store)))
        return
    if not given.page:
        run_queue(ordered(studies), store, max_minutes=given.max_minutes)
        return
    from benchmarks.claims.page import write_page

    print(write_page(studies, store, given.docs))


if __name__ == "__main__":
    main()
