"""`llama3 plugins`: list, show, check and new. Works while a plugin is broken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli import completion
from llama3.cli.options import PluginOptions, given_options
from llama3.cli.output import JsonOption, note, only_data_on_stdout, print_json, print_table, say
from llama3.errors import ConfigError, PluginError, did_you_mean

if TYPE_CHECKING:
    from llama3.plugins.loader import Broken, Offer
    from llama3.plugins.registry import Registry

NO_PLUGIN = PluginError.declare(
    "L3-CLI-010",
    "no plugin {name!r} is installed",
    why="{near}",
    fix="llama3 plugins list, with --broken what cannot be used and why; a package of your own is installed with: "
    "pip install -e FOLDER",
)
NO_SOUND_PLUGIN = PluginError.declare(
    "L3-PLG-040",
    "no plugin {name!r} is known; it may be one of a package that is installed and broken: {packages}",
    fix="llama3 plugins list --broken",
)
NO_FAMILY = ConfigError.declare("L3-CLI-011", "no such family {family!r}", why="{near}")
WHOSE_OPTIONS = ConfigError.declare("L3-CLI-013", "options belong to one plugin", fix="name it before --set")

app = typer.Typer(no_args_is_help=True, help="See, check and begin plugins.")
NameArgument = Annotated[
    str,
    typer.Argument(
        help="NAME, FAMILY/NAME, or DIST:NAME where two plugins share a name.", autocompletion=completion.plugins
    ),
]


@app.command("list")
def list_(
    family: Annotated[str | None, typer.Option(help="Only this family.", autocompletion=completion.families)] = None,
    broken: Annotated[bool, typer.Option("--broken", help="Only what failed to load.")] = False,
    json: JsonOption = False,
) -> None:
    """All plugins: family, name, where from, status. Broken ones with the reason and the fix."""
    from dataclasses import asdict

    from llama3.plugins.registry import discover

    registry = discover(strict=False)
    if family is not None:
        _check_family(registry, family)
    rows = [] if broken else registry.list(family)
    if json:
        failed = [asdict(item) for item in registry.broken]
        print_json({"plugins": [asdict(row) for row in rows], "broken": failed})
        return
    if rows:
        cells = [(row.family, row.name, f"{row.dist} {row.version}", row.status, row.summary) for row in rows]
        print_table(cells, ("FAMILY", "NAME", "FROM", "STATUS", "SUMMARY"))
    for item in registry.broken:
        say(f"broken: {item}\n  fix: {item.fix}")
    if broken and not registry.broken:
        note("no plugin is broken")


@app.command()
def show(name: NameArgument, json: JsonOption = False) -> None:
    """Everything about one plugin: options with type, default and meaning, and how to write it in a config."""
    from dataclasses import asdict

    from llama3.plugins.registry import discover

    registry = discover(strict=False)
    for offer in _find(registry, name):
        options = _options(registry, offer)
        if json:
            print_json({"plugin": asdict(offer.spec), "dist": offer.dist, "version": offer.version, "options": options})
            continue
        spec = offer.spec
        say(f"{spec.family}/{spec.name}: {spec.summary}")
        facts = {key: value for key, value in asdict(spec).items() if key not in ("name", "summary", "options")}
        facts = {"from": f"{offer.dist} {offer.version} ({offer.entry})", **facts}
        for key, value in facts.items():
            text = ", ".join(sorted(map(str, value))) if isinstance(value, frozenset | tuple) else str(value)
            say(f"  {key + ':':13} {text or '-'}")
        if options:
            say("options:")
            print_table([(f"  {row['name']}", row["type"], str(row["default"]), row["doc"]) for row in options])
        inside = "".join(f", {row['name']}: {row['default']}" for row in options[:2])
        say(f"in a config: {{name: {spec.name}{inside}}}")


@app.command()
def check(
    name: Annotated[
        str | None, typer.Argument(help="One plugin; without it, all are checked.", autocompletion=completion.plugins)
    ] = None,
    overrides: PluginOptions = None,
    json: JsonOption = False,
) -> None:
    """Import a plugin's factory and options, and run the conformance tests of its family. Exit code 4 on failure.

    What cannot be checked is skipped with the reason; a plugin that was named must be checked.
    """
    from llama3.plugins.registry import discover
    from llama3.testing.check import check_offer

    if overrides and name is None:
        raise WHOSE_OPTIONS("--set")
    options = given_options(overrides)
    registry = discover(strict=False)
    offers = registry.offers if name is None else _find(registry, name)
    with only_data_on_stdout():
        results = {f"{o.spec.family}/{o.qualified}": check_offer(registry, o, options) for o in offers}
    broken: list[Broken] = [] if name is not None else list(registry.broken)
    bad = ("failed",) if name is None else ("failed", "skipped")
    failed = bool(broken) or any(row.status in bad for rows in results.values() for row in rows)
    if json:
        print_json(
            {
                "ok": not failed,
                "plugins": {key: [row.to_json() for row in rows] for key, rows in results.items()},
                "broken": list(map(str, broken)),
            }
        )
    else:
        for key, rows in results.items():
            for row in rows:
                say(f"{row.status:8} {key}: {row.check}" + (f": {row.detail}" if row.detail else ""))
        for item in broken:
            say(f"broken   {item}\n  fix: {item.fix}")
    if failed:
        raise typer.Exit(4)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the plugin, such as brief; the package is llama3-NAME.")],
    family: Annotated[
        str, typer.Option(help="Such as rewards; see: llama3 plugins list.", autocompletion=completion.families)
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder in which the package is made.")] = Path(),
    json: JsonOption = False,
) -> None:
    """Write a package with a small plugin of a family, to start from: it passes `llama3 plugins check` as it is."""
    from llama3.scaffold.package import new_package

    files = new_package(name, family, out)
    if json:
        print_json({"files": [path.as_posix() for path in files]})
        return
    for path in files:
        say(path.as_posix())
    note(f"next: pip install -e {files[0].parent.as_posix()} && llama3 plugins check {name}")


def _find(registry: Registry, name: str) -> list[Offer]:
    """Offers called `name`, in one family or in all. Raises PluginError with near names."""
    from llama3.errors import did_you_mean
    from llama3.plugins.registry import broken_problem, same_name

    family, slash, rest = name.rpartition("/")
    if slash:
        _check_family(registry, family)
    of_family = [offer for offer in registry.offers if family in ("", offer.spec.family)]
    found = [offer for offer in of_family if rest in (offer.spec.name, offer.qualified)]
    found = found or [offer for offer in of_family if same_name(rest, offer.spec.name)]
    if not found:
        # What a broken package would have offered is not known; one that `plugins new` wrote is called llama3-NAME.
        broken = [item for item in registry.broken if rest in (item.dist, item.entry) or _is_package_of(rest, item)]
        if broken:
            raise PluginError.of(map(broken_problem, broken))
        if registry.broken:
            packages = "; ".join(map(str, registry.broken))
            raise NO_SOUND_PLUGIN(name=name, packages=packages)
        raise NO_PLUGIN(name=name, near=did_you_mean(rest, {offer.spec.name for offer in of_family}))
    return found


def _is_package_of(name: str, broken: Broken) -> bool:
    from llama3.plugins.loader import canonical

    return broken.dist == canonical(f"llama3-{name}")


def _check_family(registry: Registry, family: str) -> None:
    if family not in registry.families:
        near = did_you_mean(family, registry.families) or f"families: {', '.join(registry.families)}"
        raise NO_FAMILY("--family", family=family, near=near)


def _options(registry: Registry, offer: Offer) -> list[dict[str, Any]]:
    from llama3.config.explain import type_name
    from llama3.errors import PluginError

    try:
        model = registry.options_model(offer.spec.family, offer.qualified)
    except PluginError as error:
        note(f"note: {error}")
        return []
    rows = []
    for name, info in (model.model_fields if model else {}).items():
        default = "(required)" if info.is_required() else info.get_default(call_default_factory=True)
        doc = info.description or ""
        rows.append({"name": name, "type": type_name(info.annotation), "default": default, "doc": doc})
    return rows
