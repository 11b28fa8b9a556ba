"""One module for each suite of environments. A suite's package is imported on first use."""
