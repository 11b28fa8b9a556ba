"""Puts this folder's helper module, `host_tasks`, within reach of its tests."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
