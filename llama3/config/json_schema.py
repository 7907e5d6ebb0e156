"""JSON Schema of a config for editors, with the options of every plugin that is installed now."""

from __future__ import annotations

from typing import Any

from llama3.config.schema import Config
from llama3.config.slot_types import AUTO, CapabilitySlot
from llama3.errors import LlamaError
from llama3.plugins.registry import Registry, discover


def json_schema() -> dict[str, Any]:
    """The schema of `Config`; each slot is one of the plugins of its family, told apart by `name`."""
    registry = discover()
    schema = Config.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    families = sorted(_marks(schema))
    for family in families:
        definitions[f"{family}-plugin"] = _plugins(registry, family, definitions)
    _link(schema)
    definitions.pop("Slot", None)
    definitions.pop("AxisSlot", None)
    definitions.pop("SuiteSlot", None)
    definitions.pop("CapabilitySlot", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "llama3 config"}


def _plugins(registry: Registry, family: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Either the bare name of any plugin, or the object of one of them."""
    names = list(registry.names(family))
    objects = []
    for name in names:
        properties: dict[str, Any] = {"name": {"const": name}}
        if family == "parallelism":
            properties["size"] = {"type": ["integer", "null"], "minimum": 1}
        if family == "evaluators":
            properties["suite"] = {"type": ["string", "null"], "minLength": 1}
        if family == "capabilities":
            properties |= {**CapabilitySlot.model_json_schema()["properties"], **properties}
        summary = ""
        try:
            summary = registry.spec(family, name).summary
            model = registry.options_model(family, name)
        except LlamaError:
            continue  # broken or unmet: it cannot be chosen, `plugins list` says why
        if model is not None:
            reference = "#/$defs/" + f"{family}-{name}-".replace(":", "-") + "{model}"
            options = model.model_json_schema(ref_template=reference)
            for key, value in options.pop("$defs", {}).items():
                definitions[reference.removeprefix("#/$defs/").format(model=key)] = value
            properties.update(options.get("properties", {}))
        objects.append(
            {
                "type": "object",
                "description": summary,
                "properties": properties,
                "required": ["name"],
                "additionalProperties": False,
            }
        )
    short = [{"type": "integer", "minimum": 1}, {"const": AUTO}] if family == "parallelism" else []
    return {"oneOf": [*short, {"enum": names}, *objects]}


def _marks(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(_marks, node))
    if not isinstance(node, dict):
        return set()
    own = {node["x-llama3-family"]} if isinstance(node.get("x-llama3-family"), str) else set()
    return own.union(*map(_marks, node.values()))


def _link(node: Any) -> None:
    """Replace each mark by a reference to the plugins of its family; description and default stay."""
    if isinstance(node, list):
        for item in node:
            _link(item)
    if not isinstance(node, dict):
        return
    family = node.pop("x-llama3-family", None)
    if isinstance(family, str):
        for key in ("allOf", "type", "properties", "required", "additionalProperties", "title"):
            node.pop(key, None)
        node["$ref"] = f"#/$defs/{family}-plugin"
    for value in node.values():
        _link(value)
