"""Which operators of our exported decoder step torch-tensorrt has converters for, told without running it: its sources
are read (`@dynamo_tensorrt_converter`), for neither TensorRT nor a GPU need be there.

An operator that has a converter stays; others are taken apart by torch's own decompositions, those that torch-tensorrt
adds to the usual ones included; what is then left has none. A converter counts if it takes dynamic shapes. One with a
validator looks at the arguments too and may decline them: whether it does shows only where TensorRT runs.

Refresh the golden file with: python tests/release/tensorrt_coverage.py WHEEL...
where each wheel came by: pip download --no-deps torch-tensorrt==VERSION
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch._decomp import get_decompositions
from torch.export import ExportedProgram, default_decompositions
from torch.export.decomp_utils import CustomDecompTable

from llama3.release.decoder_step import export_step
from llama3.testing.toys import toy_llama

GOLDEN = Path(__file__).with_name("tensorrt_coverage.json")


def toy_step() -> ExportedProgram:
    """The step that `llama3 export` exports: a prompt and single tokens, numbers of both and of sequences free."""
    return export_step(toy_llama(layers=3).transformer.requires_grad_(False))


def operators(program: ExportedProgram, kept: Iterable[str], also: Iterable[str]) -> set[str]:
    """What a program calls when all is taken apart but `kept`, by `also` too (names of packets or of overloads).
    Assertions about shapes compute nothing."""
    table: Any = default_decompositions()
    assert isinstance(table, CustomDecompTable)
    table.update(get_decompositions([attrgetter(name)(torch.ops) for name in also]))
    keep = set(kept)
    for operator in list(table.materialize()):
        if str(operator) in keep:
            table.pop(operator)
    calls = (node.target for node in program.run_decompositions(table).graph.nodes if node.op == "call_function")
    return {_name(target) for target in calls} - {"aten._assert_tensor_metadata.default"}


def _name(target: Any) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else f"operator.{target.__name__}"


def converters(wheel: Path) -> dict[str, bool]:
    """Operators that a torch-tensorrt wheel converts with dynamic shapes -> whether a validator may decline one."""
    found: dict[str, bool] = {}
    with zipfile.ZipFile(wheel) as files:
        for name in files.namelist():
            if re.match(r"torch_tensorrt/dynamo/conversion/.*\.py$", name):
                found |= dict(_registered(ast.parse(files.read(name))))
    return found


def _registered(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dynamo_tensorrt_converter":
            options = {option.arg: option.value for option in node.keywords}
            dynamic = options.get("supports_dynamic_shapes")
            name = ast.unparse(node.args[0] if node.args else options["key"]).removeprefix("torch.ops.")
            if isinstance(dynamic, ast.Constant) and dynamic.value is True:
                # A packet stands for its overloads.
                yield (
                    name if name.count(".") != 1 or name.startswith("operator.") else f"{name}.default",
                    ("capability_validator" in options),
                )


def decompositions(wheel: Path) -> list[str]:
    """Operators that a torch-tensorrt wheel takes apart by torch's decompositions, beyond the usual ones."""
    with zipfile.ZipFile(wheel) as files:
        tree = ast.parse(files.read("torch_tensorrt/dynamo/lowering/_decomposition_groups.py"))
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "torch_enabled_decompositions":
            assert isinstance(node.value, ast.Set)
            return [ast.unparse(name) for name in node.value.elts]
    raise ValueError(f"{wheel.name} has no such list")


def coverage(program: ExportedProgram, wheel: Path) -> dict[str, Any]:
    """The entry of the golden file for a wheel."""
    known, more = converters(wheel), decompositions(wheel)
    left = operators(program, known, ()) - known.keys()
    apart = sorted(name for name in more if name in left | {call.rpartition(".")[0] for call in left})
    calls = operators(program, known, apart)
    return {
        "converters": len(known),
        "taken_apart_besides": apart,
        "converted": sorted(call for call in calls if call in known and not known[call]),
        "converted_if_its_validator_agrees": sorted(call for call in calls if known.get(call)),
        "left_to_torch": sorted(calls - known.keys()),
    }


def main(wheels: list[str]) -> None:
    program = toy_step()
    versions = {wheel.name.split("-")[1]: coverage(program, wheel) for wheel in map(Path, wheels)}
    golden = {"torch": torch.__version__.partition("+")[0], "torch_tensorrt": dict(sorted(versions.items()))}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
