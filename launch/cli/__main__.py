"""`python -m bellmax.launch.cli`: the `bellmax` command."""

import sys

from bellmax.launch.cli.app import main

sys.exit(main())
