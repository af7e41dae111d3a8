"""What may be written in YAML, and how it becomes checked settings."""
