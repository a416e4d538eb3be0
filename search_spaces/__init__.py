"""Built-in search spaces: one YAML file each, data without code."""
