"""What a run is configured by: dataclasses, presets, YAML files, options and their validation."""
