"""Configuration of a run: dataclasses, presets, YAML files, options and their validation."""
