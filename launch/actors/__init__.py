"""Actors, which step host environments: in threads of this process or in processes of Ray."""
