"""From YAML to checked settings."""
