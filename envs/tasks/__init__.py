"""bellmax's own tasks, several of them with exactly known values."""
