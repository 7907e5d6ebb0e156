"""`llama3 config`: list, show, validate, explain, init, and the JSON Schema for editors. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli import completion
from llama3.cli.output import ConfigArgument, JsonOption, SetOption, note, print_json, print_table, say

if TYPE_CHECKING:
    from llama3.config import Loaded
    from llama3.config.explain import Explanation

app = typer.Typer(no_args_is_help=True, help="Look at configs and check them.")


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """The presets that can be run or extended by name."""
    from llama3.config.presets import presets

    rows = [(preset.name, preset.dist, preset.summary) for preset in presets().values()]
    if json:
        print_json({"presets": [dict(zip(("name", "from", "summary"), row, strict=True)) for row in rows]})
    else:
        print_table(rows, ("PRESET", "FROM", "SUMMARY"))


@app.command()
def show(
    config: ConfigArgument,
    overrides: SetOption = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value came from.")] = False,
    json: JsonOption = False,
) -> None:
    """The effective config: what the file, the preset, the environment and --set add up to."""
    from llama3.config import load
    from llama3.plugins.options import dotted

    loaded = load(config, overrides or ())
    _print_notes(loaded.notes)
    if json:
        print_json({"config": loaded.values, "origins": loaded.origins_json()})
    elif origin:
        leaves = list(_leaves(loaded.values, ()))
        print_table([(dotted(p), _text(v), str(loaded.origin(p))) for p, v in leaves], ("KEY", "VALUE", "FROM"))
    else:
        say(loaded.to_yaml(), end="")


@app.command()
def validate(config: ConfigArgument, overrides: SetOption = None, json: JsonOption = False) -> None:
    """Check a config and print every mistake at its place. Exit code 2 (4 where only plugins are at fault)."""
    from llama3.preflight import load_config

    loaded = load_config(config, overrides or ())
    _print_notes([*loaded.notes, *_too_large(loaded)])
    if json:
        print_json({"ok": True, "problems": []})
    else:
        note(f"{loaded.source}: ok")


@app.command()
def schema() -> None:
    """JSON Schema of a config, with the options of the plugins installed here. For editors."""
    from llama3.config.json_schema import json_schema

    print_json(json_schema())


@app.command()
def explain(
    key: Annotated[
        str,
        typer.Argument(help="Such as post_training.algorithm; empty for all sections.", autocompletion=completion.keys),
    ] = "",
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Show the values of this config.", autocompletion=completion.configs),
    ] = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """What a key means: type, default, description, current value and its origin."""
    from dataclasses import asdict

    from llama3.config import load
    from llama3.config.explain import explain as look_up

    loaded = load(config or {}, overrides or ()) if config or overrides else None
    found = look_up(key, loaded)
    if json:
        print_json(asdict(found))
    else:
        _print_explanation(found, with_value=loaded is not None)


@app.command()
def init(
    preset: Annotated[str, typer.Argument(help="Name of a preset.", autocompletion=completion.presets)] = "quickstart",
) -> None:
    """Print a preset with its comments, as a start: llama3 config init > my.yaml"""
    from llama3.config.presets import preset as find

    say(find(preset).text, end="")


def _too_large(loaded: Loaded) -> Iterator[str]:
    """That the model does not fit into this machine: no mistake of a config that may be meant for another."""
    from llama3.model.config import ModelConfig
    from llama3.model.needs import memory_here, shortage

    config, there = loaded.config, memory_here()
    if config.model.path is None and there:
        model = ModelConfig.from_section(config.model, config.tokenizer.vocab_size)
        for problem in shortage(config, model, there, "this machine"):
            yield f"`llama3 run` would refuse it here: {problem}"


def _print_notes(notes: Any) -> None:
    for line in notes:
        note(f"note: {line}")


def _print_explanation(found: Explanation, *, with_value: bool) -> None:
    say(f"{found.key or 'config'}: {found.type}")
    say(f"  {found.doc}")
    if found.key and found.type != "section":
        say(f"  default: {_text(found.default)}")
    if with_value and found.off:
        say(f"  value:   none: {found.off} is null, so this section is off; the default counts once it is set")
    elif with_value and found.key and found.type != "section":
        say(f"  value:   {_text(found.value)}  ({found.origin})")
    if found.plugins:
        say("plugins:")
        print_table([(f"  {name}", summary) for name, summary in found.plugins.items()])
    if found.children:
        off = ", with their defaults" if found.children[0].off else ""
        say("options:" if found.plugins else f"keys{off}:")
        print_table([_key_row(child) for child in found.children])


def _key_row(child: Explanation) -> tuple[str, str, str, str]:
    value = "" if child.type == "section" else _text(child.default if child.off else child.value)
    return f"  {child.key.split('.')[-1]}", child.type, value, child.doc


def _leaves(value: Any, path: tuple[str | int, ...]) -> Any:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not children or not value:
        yield path, value
        return
    for key, child in children:
        yield from _leaves(child, (*path, key))


def _text(value: Any) -> str:
    from llama3.config.yaml import dump

    if isinstance(value, dict | list):
        return str(value)
    return dump(value).removesuffix("\n").removesuffix("...").rstrip()
