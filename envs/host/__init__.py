"""Host environments: batches of Python tasks, stepped in a loop, in processes or by threads."""
