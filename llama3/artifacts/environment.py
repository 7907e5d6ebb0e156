"""What the code and the machine are: `code` enters manifests, `describe` fills a run's env.json."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import llama3
from llama3 import _core
from llama3.artifacts.artifact import Code

PACKAGES = ("llama3", "numpy", "pyarrow", "pydantic", "safetensors", "torch", "zstandard")


@cache
def code() -> Code:
    """The running code: version, hash of the Rust extension, commit (with `-dirty`) when run from a
    checkout.
    """
    return Code(version=llama3.__version__, core_build=_core.blake3_file(str(_core.__file__))[:16], git=_git())


def _git() -> str | None:
    root = Path(llama3.__file__).resolve().parent.parent
    if not (root / ".git").exists():  # installed: a repository around it would be somebody else's
        return None
    try:
        commit, changed = _told(root, "rev-parse", "HEAD"), _told(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("-dirty" if changed else "")


def _told(root: Path, *arguments: str) -> str:
    """What git says, without locks: killed half-way, it would leave one behind, and no commit would be possible."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def describe() -> dict[str, Any]:
    """Python, machine, cores and the versions of the packages that results can depend on. Imports none of
    them.
    """
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": versions,
        "code": code().model_dump(),
    }
