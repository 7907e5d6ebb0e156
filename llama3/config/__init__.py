"""Configuration: the schema of a run, loading with `file:line:col`, overrides, and the origin of every value.

`load("quickstart", ["pretrain.steps=10"])` gives a checked `Loaded`, or a ConfigError with every mistake at once.
"""

from llama3.config.loading import Loaded, Origin, load
from llama3.config.schema import Config

__all__ = ["Config", "Loaded", "Origin", "load"]
