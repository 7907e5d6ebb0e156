"""Broken on purpose: shows that one such package is reported with its fix, and breaks nothing else."""

import llama3_nowhere  # noqa: F401 - there is no such package
