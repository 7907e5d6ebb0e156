"""The sections of a config that are right, where others are wrong: what can be checked of them is told at once too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llama3.config.schema import Config
from llama3.errors import Problem, did_you_mean


class UnreadError(Exception):
    """A check asks for a section that is wrong, so it has nothing more to tell."""


class PartialConfig(Config):
    """A config without the sections that are wrong: whoever asks for one of them gets `UnreadError`."""

    def __getattr__(self, name: str) -> Any:
        if name in Config.model_fields:
            raise UnreadError(name)
        raise AttributeError(name)


def without(values: Mapping[str, Any], wrong: Iterable[object]) -> PartialConfig:
    """The config of `values` but for the sections with the names `wrong`. An unknown name stands for the sections that
    it is near to, which somebody may have meant."""
    names = Config.model_fields.keys()
    unread = {name for key in wrong for name in names if key == name or (key not in names and _near(key, name))}
    config = PartialConfig.model_validate({name: values[name] for name in names & values.keys() - unread})
    for name in unread:
        del config.__dict__[name]
    return config


def _near(key: object, name: str) -> bool:
    return bool(did_you_mean(str(key), [name]))


def found_by(check: Callable[[], Iterable[Problem]]) -> list[Problem]:
    """What a check finds; of a config that is wrong in part, what it finds in the sections that are right."""
    found: list[Problem] = []
    try:
        for problem in check():
            found.append(problem)
    except UnreadError:
        pass
    return found
