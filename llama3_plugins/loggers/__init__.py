"""Loggers: plugins that receive metrics and samples (family `loggers`)."""
