"""One plugin on the command line: its name, and its options by `--set OPTION=VALUE`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from llama3.errors import ConfigError

NO_OPTION = ConfigError.declare("L3-CLI-012", "not an option with its value", fix="write option=value")

PluginOptions = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="An option of the plugin, such as path=notes. Repeatable."),
]


def plugin_name(family: str, given: str) -> str:
    """The name of a plugin as its author wrote it: - and _ are the same on the command line."""
    from llama3.plugins.registry import discover

    return discover().spelled(family, given)


def given_options(overrides: Iterable[str] | None, option: str = "--set") -> dict[str, Any]:
    """The options that were given, their values read as YAML. Raises ConfigError."""
    from llama3.config.yaml import parse_value

    given = {}
    for text in overrides or ():
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise NO_OPTION(f"{option} {text}")
        given[key.strip()] = parse_value(value, f"{option} {text}")
    return given
