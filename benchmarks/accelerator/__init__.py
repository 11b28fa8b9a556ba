"""What one accelerator does with bellmax: `python -m benchmarks.accelerator --help`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The single scripts import one another by bare names.
sys.path.insert(0, str(ROOT / "benchmarks"))
