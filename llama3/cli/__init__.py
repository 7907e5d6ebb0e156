"""The command `llama3`: one file per command, whose body imports what it needs when it runs."""

from llama3.cli.app import main

__all__ = ["main"]
