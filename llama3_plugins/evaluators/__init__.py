"""Evaluators: plugins that measure a model on held-out data (family `evaluators`)."""
