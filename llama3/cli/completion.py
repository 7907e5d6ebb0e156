"""What a shell offers on <Tab>: presets and files, plugins, families, keys of the config and their values.

Set up by `llama3 --install-completion`. Never imports torch. Whatever goes wrong (a broken plugin, say), nothing is
offered: a shell is no place for an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from textwrap import shorten

WIDTH = 50
"""Characters of a meaning: what typer wraps, a shell takes for more words."""
Offers = list[tuple[str, str]]
"""Words with their meanings."""


def _offers(find: Callable[[str], Iterable[tuple[str, str]]]) -> Callable[[str], Offers]:
    """A completion: what `find` knows that begins as the incomplete word does."""

    @wraps(find)
    def complete(incomplete: str) -> Offers:
        try:
            found = [(word, shorten(meaning, WIDTH)) for word, meaning in find(incomplete)]
            return [offer for offer in found if offer[0].startswith(incomplete)]
        except (Exception, SystemExit):
            return []

    return complete


@_offers
def presets(incomplete: str) -> Iterator[tuple[str, str]]:
    """Names of presets."""
    from llama3.config.presets import presets as all_presets

    for preset in all_presets().values():
        yield preset.name if preset.dist == "llama3" else f"{preset.dist}:{preset.name}", preset.summary


@_offers
def configs(incomplete: str) -> Iterator[tuple[str, str]]:
    """Presets, and the YAML files and folders that the word leads to."""
    yield from presets(incomplete)
    head = incomplete.rpartition("/")[0]
    folder = Path(f"{head}/" if head or incomplete.startswith("/") else ".")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        word = f"{incomplete[: len(incomplete) - len(incomplete.rpartition('/')[2])]}{path.name}"
        if path.is_dir() and not path.name.startswith("."):
            yield f"{word}/", "folder"
        elif path.suffix in (".yaml", ".yml"):
            yield word, "file"


@_offers
def families(incomplete: str) -> Iterator[tuple[str, str]]:
    """Families of plugins."""
    from llama3.plugins.hookspecs import REGISTRATION

    for kind in REGISTRATION.values():
        yield kind.family, (kind.__doc__ or "").partition(":")[0]


@_offers
def plugins(incomplete: str) -> Iterator[tuple[str, str]]:
    """Names of plugins; after `FAMILY/` those of one family."""
    from llama3.plugins.registry import discover

    for row in discover(strict=False).list():
        name = row.qualified if row.status == "clash" else row.name
        yield f"{row.family}/{name}" if "/" in incomplete else name, row.summary


@_offers
def schemes(incomplete: str) -> Iterator[tuple[str, str]]:
    """Names of quantization schemes."""
    return _of_family("quantization")


@_offers
def exporters(incomplete: str) -> Iterator[tuple[str, str]]:
    """Names of exporters."""
    return _of_family("exporters")


@_offers
def gpus(incomplete: str) -> Iterator[tuple[str, str]]:
    """This machine and the GPUs that are known."""
    from llama3.cost.gpus import HERE, known_gpus

    yield HERE, "this machine, measured"
    for name, gpu in known_gpus().items():
        yield name, f"{gpu.memory / 1e9:g} GB, {gpu.bandwidth / 1e12:g} TB/s"


def _of_family(family: str) -> Iterator[tuple[str, str]]:
    from llama3.plugins.registry import discover

    for row in discover(strict=False).list(family):
        yield (row.qualified if row.status == "clash" else row.name), row.summary


@_offers
def keys(incomplete: str) -> Iterator[tuple[str, str]]:
    """Keys of the config, sections included; below a plugin's slot the options of the plugin chosen by default."""
    from llama3.config.explain import all_keys, explain

    seen: set[str] = set()
    for leaf in all_keys():
        parts = leaf.key.split(".")
        for depth in range(1, len(parts)):
            section = ".".join(parts[:depth])
            if section not in seen:
                seen.add(section)
                yield section, "section"
        yield leaf.key, leaf.doc
        if leaf.key in incomplete:
            yield from ((child.key, child.doc) for child in explain(leaf.key).children)


@_offers
def overrides(incomplete: str) -> Iterator[tuple[str, str]]:
    """`KEY=`, and after it the plugins or words that may stand there."""
    from llama3.config.explain import explain

    key, equals, _ = incomplete.partition("=")
    if not equals:
        yield from ((f"{word}=", meaning) for word, meaning in keys(key) if meaning != "section")
        return
    found = explain(key)
    words = dict(found.plugins)
    if found.type.startswith("one of "):
        words |= dict.fromkeys(found.type.removeprefix("one of ").split(", "), "")
    elif found.type == "true or false":
        words |= {"true": "", "false": ""}
    yield from ((f"{key}={word}", meaning) for word, meaning in words.items())
