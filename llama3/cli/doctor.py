"""`llama3 doctor`: is everything in place? Works without torch and while a plugin is broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer

from llama3.cli.output import JsonOption, print_json, say


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `fix` says what to do where the state is not ok."""

    topic: str
    state: Literal["ok", "note", "problem"]
    text: str
    fix: str = ""


def doctor(json: JsonOption = False) -> None:
    """Check versions, machine, the Rust core, torch, plugins and offline state. Exit code 1 on a problem."""
    findings = [*_python(), *_machine(), *_core(), *_torch(), *_plugins(), *_offline()]
    if json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
        for finding in findings:
            say(f"{marks[finding.state]} {finding.topic:8} {finding.text}")
            if finding.fix:
                say(f"{'':16} fix: {finding.fix}")
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def _python() -> Iterator[Finding]:
    from llama3 import __version__

    yield Finding("llama3", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}")
    for name in ("numpy", "pyarrow", "safetensors", "zstandard", "jinja2"):
        if importlib.util.find_spec(name) is None:
            yield Finding("packages", "problem", f"{name} is missing", f"pip install {name}")


def _machine() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", "ok", f"{usable} usable of {os.cpu_count()}")
    from llama3.model.needs import memory_here

    total = memory_here()
    if total is not None:
        small = total < 4e9
        fix = "the quickstart needs 4 GB" if small else ""
        yield Finding("memory", "note" if small else "ok", f"{total / 1e9:.1f} GB", fix)
    free = shutil.disk_usage(".").free
    low = free < 2e9
    yield Finding("disk", "note" if low else "ok", f"{free / 1e9:.1f} GB free here", "free some space" if low else "")


def _core() -> Iterator[Finding]:
    try:
        from llama3 import _core as core
    except ImportError as error:
        fix = "pip install a wheel, or in a checkout: pip install -e . (needs Rust, https://rustup.rs)"
        yield Finding("core", "problem", f"the Rust core does not load: {error}", fix)
        return
    built = Path(str(core.__file__))
    sources = (built.parents[1] / "core-rs" / "src").rglob("*.rs")  # there only in a checkout
    if any(source.stat().st_mtime > built.stat().st_mtime for source in sources):
        yield Finding("core", "problem", f"{core.__version__} is older than its Rust sources", "pip install -e .")
    elif core.debug_build:
        yield Finding("core", "problem", f"{core.__version__}, debug build: slow", "pip install -e .")
    else:
        yield Finding("core", "ok", f"{core.__version__}, release build ({core.__file__})")


def _torch() -> Iterator[Finding]:
    """From the metadata: importing torch takes seconds and may fail."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        text = "not installed: plugins, config, tokenizer and data work, models do not"
        yield Finding("torch", "note", text, "pip install torch")
        return
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) if Path("/proc/driver/nvidia/gpus").is_dir() else 0
    yield Finding("torch", "ok", f"{version}, {gpus} NVIDIA GPU(s) visible to the driver")


def _plugins() -> Iterator[Finding]:
    from llama3.plugins.loader import BUILT_IN
    from llama3.plugins.registry import discover

    registry = discover(strict=False)
    rows = registry.list()
    if not any(row.dist == BUILT_IN for row in rows):
        fix = "install the package: pip install -e . in a checkout"
        yield Finding("plugins", "problem", "the built-in plugins are not registered", fix)
    for broken in registry.broken:
        yield Finding("plugins", "problem", str(broken), broken.fix)
    for row in rows:
        if row.status == "clash":
            fix = f"write {row.qualified} in configs, or uninstall one"
            yield Finding("plugins", "note", f"{row.family}/{row.name} is offered twice", fix)
        elif row.status != "ok":
            yield Finding("plugins", "note", f"{row.family}/{row.qualified} {row.status}")
    others = sorted({f"{row.dist} {row.version}" for row in rows if row.dist != BUILT_IN})
    yield Finding("plugins", "ok", f"{len(rows)} plugins; third parties: {', '.join(others) or 'none'}")


def _offline() -> Iterator[Finding]:
    yield Finding("network", "ok", "offline by design: no command of llama3 opens a connection")
