"""Configuration: the schema of a run, loading with `file:line:col`, overrides, and the origin of every value."""
