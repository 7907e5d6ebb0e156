"""Pages of one file: Jinja templates that lie beside the code, and the style sheet that all of them have inside."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup


def template(package: str, name: str, filters: Mapping[str, Any] | None = None) -> jinja2.Template:
    """The template `name` of a package. What it is not told is an error, and what it shows is escaped."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: _text(package, name)),
    )
    environment.filters |= filters or {}
    return environment.get_template(name)


def style() -> Markup:
    """The style sheet of all pages."""
    return Markup(_text("llama3.evaluation", "report.css"))


def _text(package: str, name: str) -> str:
    return (files(package) / name).read_text(encoding="utf-8")
