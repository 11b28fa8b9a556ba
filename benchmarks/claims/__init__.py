"""The claims of the papers, put to the test: `python -m benchmarks.claims --help`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The older studies import one another by bare names, as scripts do.
sys.path.insert(0, str(ROOT / "benchmarks"))
