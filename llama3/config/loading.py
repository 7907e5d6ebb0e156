"""Loads a config: layers, then the passes. All mistakes are reported at once, each at its place.

Pass 1 checks the core schema with open slots; pass 2 each chosen plugin's options against the plugin's own model;
pass 3 what no single key can know (llama3.config.crosscheck). Passes 2 and 3 tell of the sections that pass 1 found
right, whatever it found wrong in others. Nothing here imports a plugin's implementation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from llama3.config.crosscheck import cross_check
from llama3.config.merge import (
    Kind,
    Layers,
    Origin,
    Override,
    Wrong,
    apply_overrides,
    environment_overrides,
    misspelt,
    nearest,
    set_overrides,
)
from llama3.config.partial import found_by, without
from llama3.config.phases import own_lengths, unused_steps
from llama3.config.presets import preset
from llama3.config.schema import Config
from llama3.config.slots import Choice, choices, identities
from llama3.config.task_rewards import unmeasured_notes
from llama3.config.yaml import Parsed, Path, dump, parse, parse_value
from llama3.errors import ConfigError, Problem
from llama3.plugins.options import dotted, problems_of
from llama3.plugins.registry import discover

EXTENDS_TWICE = ConfigError.declare(
    "L3-CFG-007",
    "{preset!r} extends another one",
    why="a file builds on a preset, or on a file that builds on one more",
    fix="copy what you need from it",
)
NO_BASE = ConfigError.declare(
    "L3-CFG-093",
    "cannot extend {base}",
    why="there is no file {path}",
    fix="give a file of YAML, its path seen from the folder of this config, or the name of a preset",
)
UNREADABLE = ConfigError.declare(
    "L3-CFG-008",
    "cannot read the config",
    why="{why}",
    fix="give a file of YAML, the name of a preset, or the folder of a run",
)
NO_SECTIONS = ConfigError.declare("L3-CFG-009", "expected sections, got {got}", fix="llama3 config init > my.yaml")

ODD_NUMBER = ConfigError.declare(
    "L3-CFG-019", "{value} is no number to compute with", fix="give a finite number of ordinary size"
)

GREATEST = 1e30
"""What is greater is a mistake, and overflows in the precision of training."""
MAX_BYTES = 1_000_000
"""A larger file is not a config."""


@dataclass(frozen=True)
class Loaded:
    """A checked config and where every value of it came from."""

    config: Config
    source: str
    origins: Mapping[Path, Origin]
    notes: Sequence[str] = ()
    choices: Sequence[Choice] = ()

    @property
    def values(self) -> dict[str, Any]:
        """The effective config as plain data, defaults included, `extends` resolved."""
        return self.config.model_dump(exclude={"extends"})

    def origin(self, path: Path | str) -> Origin:
        """Where the value at a path ("pretrain.steps", "safety.policy.input.any[0]") came from."""
        return self.origins.get(_path(path), Origin("default"))

    def place(self, path: Path | str) -> str:
        """`where` for a Problem: the origin and the dotted path."""
        return _place(self.origins, _path(path))

    def to_yaml(self) -> str:
        """The effective config; loading it gives an equal one."""
        return dump(self.values)

    def origins_json(self) -> dict[str, dict[str, str]]:
        """Dotted path -> kind and place of every value that is not a default."""
        return {
            dotted(path): {"kind": origin.kind, "where": origin.where}
            for path, origin in sorted(self.origins.items(), key=lambda item: tuple(map(str, item[0])))
        }

    def plugins(self) -> list[dict[str, str]]:
        """Identity of every chosen plugin, as manifests record it."""
        return identities(self.choices)


Check = Callable[[Loaded], Iterable[Problem]]


def load(
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Sequence[str | Override] = (),
    *,
    environ: Mapping[str, str] | None = None,
    checks: Iterable[Check] = (),
    completed: Callable[[Layers], None] = lambda _: None,
) -> Loaded:
    """Load and check a preset (by name), a file, a run directory or a plain mapping. A run directory goes on where it
    is, wherever it was made and whatever it was called then. `extends` names a preset, or a file beside the one that
    says so, and that file another one.

    Args:
        overrides: `section.key=value` each, the value in YAML; they win over everything else. An `Override` says
            itself where it was given.
        environ: where `LLAMA3__SECTION__KEY` and `WORLD_SIZE` are looked up (default: the process's environment).
        checks: further cross-checks, reported together with the last pass.
        completed: adds what follows from the values that were given.

    Raises:
        ConfigError: with every mistake that could be found; where all are of another class (a plugin is missing,
            a file that the config names is damaged), an error of that class.
    """
    environ = os.environ if environ is None else environ
    layers = Layers()
    rows = [*environment_overrides(environ), *set_overrides(overrides)]
    label = _add_source(layers, source, [row for row in rows if row[0] == ["extends"]])
    wrong = [*misspelt(environ), *apply_overrides(layers, [row for row in rows if row[0] != ["extends"]])]
    wrong += _odd_numbers(layers.values, (), layers)
    completed(layers)
    config, problems = _core_pass(layers, wrong)
    chosen, unfit = choices(config, lambda path: nearest(layers.origins, path))
    notes = list(layers.notes)
    given = layers.origins.get(("pretrain", "steps"))
    if not problems and given and given.kind in ("set", "env"):
        notes += own_lengths(config.pretrain, str(given))
    elif not problems and given and given.kind in ("file", "python"):
        notes += unused_steps(config.pretrain, str(given))
    if not problems:
        notes += unmeasured_notes(config, discover())
    loaded = Loaded(config, label, dict(layers.origins), tuple(notes), tuple(chosen))
    problems += unfit
    problems += cross_check(config, discover(), loaded.place, environ)
    for check in checks:
        problems += found_by(partial(check, loaded))
    if problems:
        raise ConfigError.of(problems)
    return loaded


def _add_source(
    layers: Layers, source: str | os.PathLike[str] | Mapping[str, Any], extending: Sequence[Override]
) -> str:
    """Lay the preset or the file that the source extends, or that the last of the overrides `extending` names in its
    place, then the source, then where the source is if it is a run; returns the source's label."""
    folder = FilePath()
    if isinstance(source, Mapping):
        parsed, kind, label = Parsed(dict(source)), "python", "config"
    else:
        parsed, kind, label = _read(os.fspath(source))
        folder = FilePath(label).parent if kind == "file" else folder
    data = _mapping(parsed, label)
    base, where = data.get("extends"), _mark(label, parsed, ("extends",))
    for _, text, origin in extending:
        base, where, folder = parse_value(text, str(origin)), str(origin), FilePath()
        data = {**data, "extends": base}
    if base is not None:
        _lay_base(layers, str(base), folder, where)
    layers.add(data, kind, label, parsed.marks)  # type: ignore[arg-type]
    if not isinstance(source, Mapping):
        _stay(layers, FilePath(source))
    return label


def _lay_base(layers: Layers, name: str, folder: FilePath, where: str, *, is_last: bool = False) -> None:
    """Lay what `extends` names, and below it what that extends, if it is a file. `is_last`: nothing may be below."""
    base, kind, file = _base(name, folder, where)
    below = _mapping(base, file).get("extends")
    if below is not None:
        if is_last or kind == "preset":
            raise EXTENDS_TWICE(where, preset=name)
        _lay_base(layers, str(below), FilePath(file).parent, _mark(file, base, ("extends",)), is_last=True)
    layers.add(base.data, kind, file, base.marks)


def _base(name: str, folder: FilePath, where: str) -> tuple[Parsed, Kind, str]:
    """What `extends` names: a file, seen from `folder`, where it is written as one, else a preset."""
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        found = preset(name, where=where)
        return parse(found.text, f"{found.name}.yaml"), "preset", f"{found.name}.yaml"
    path = folder / name
    if not path.is_file():
        raise NO_BASE(where, base=name, path=path)
    return parse(_text(path), str(path)), "file", str(path)


def _stay(layers: Layers, folder: FilePath) -> None:
    """A run that is named by its folder is that folder's, whatever `run` says there since it was moved or renamed."""
    if not (folder / "origin.json").is_file():
        return
    run = layers.values["run"]
    said = os.path.realpath(os.path.join(str(run.get("dir")), str(run.get("name")))) if isinstance(run, dict) else ""
    if said == os.path.realpath(folder):
        return
    place = folder if folder.name not in ("", "..") else FilePath(os.path.abspath(folder))
    layers.add({"run": {"dir": str(place.parent), "name": place.name}}, "file", str(folder))


def _read(source: str) -> tuple[Parsed, Kind, str]:
    path = FilePath(source)
    if path.is_dir() and (path / "config.yaml").is_file():
        path = path / "config.yaml"
    if not path.exists() and not path.suffix and path.name == source:
        found = preset(source)
        return parse(found.text, f"{found.name}.yaml"), "preset", f"{found.name}.yaml"
    return parse(_text(path), str(path)), "file", str(path)


def _text(path: FilePath) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UNREADABLE(path, why=error) from error
    if len(raw) > MAX_BYTES:
        raise UNREADABLE(path, why="larger than 1 MB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UNREADABLE(f"{path}:{line}", why="not UTF-8") from error


def _mapping(parsed: Parsed, label: str) -> dict[str, Any]:
    if not isinstance(parsed.data, dict):
        raise NO_SECTIONS(_mark(label, parsed, ()), got=type(parsed.data).__name__)
    return parsed.data


def _mark(label: str, parsed: Parsed, path: Path) -> str:
    return f"{label}:{parsed.marks[path]}" if path in parsed.marks else label


def _odd_numbers(value: Any, path: Path, layers: Layers) -> list[Wrong]:
    """Numbers that nothing can be done with, wherever they stand: in the options of a plugin too."""
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return [found for key, item in items for found in _odd_numbers(item, (*path, key), layers)]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    if -GREATEST < value < GREATEST and (not isinstance(value, int) or -(2**63) <= value < 2**63):
        return []
    return [(path, ODD_NUMBER.problem(_place(layers.origins, path), value=value))]


def _core_pass(layers: Layers, wrong: list[Wrong]) -> tuple[Config, list[Problem]]:
    """The config, or the sections of it that are right, and what is wrong with the others. Raises ConfigError where
    nobody can tell which sections are right."""

    def where(path: Path) -> str:
        return str(nearest(layers.origins, path))

    problems, sections = [problem for _, problem in wrong], {path[:1] for path, _ in wrong}
    try:
        config = Config.model_validate(layers.values)
        if not wrong:
            return config, []
    except ValidationError as error:
        told = {problem.where for problem in problems}  # an odd number is not also out of its field's range
        problems += [found for found in problems_of(error, Config, where) if found.where not in told]
        sections |= {item["loc"][:1] for item in error.errors(include_url=False, include_context=False)}
    if () in sections:
        raise ConfigError.of(problems)
    return without(layers.values, {name for (name,) in sections}), problems


def _path(path: Path | str) -> Path:
    if not isinstance(path, str):
        return path
    parts = re.findall(r"[^.\[\]]+", path)
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _place(origins: Mapping[Path, Origin], path: Path) -> str:
    return f"{nearest(origins, path)}: {dotted(path)}"
