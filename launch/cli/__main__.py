"""`python -m bellmax.launch.cli`: the `bellmax` command."""

import sys

from bellmax.launch.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
