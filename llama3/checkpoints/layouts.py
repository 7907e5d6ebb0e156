"""What a model lies in: a Hugging Face directory, Meta's directory, or a GGUF file. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from llama3.errors import CheckpointError

NO_MODEL = CheckpointError.declare(
    "L3-CKP-001",
    "no model is here",
    why="{why}",
    fix="give a .gguf file, or a folder with config.json and safetensors, or with params.json and consolidated.*.pth",
)
NO_GGUF = CheckpointError.declare(
    "L3-CKP-013",
    "is no GGUF file",
    why="it does not begin with {magic!r}",
    fix="give a .gguf file, or the directory that holds config.json or params.json",
)
GGUF_INSIDE = CheckpointError.declare("L3-CKP-017", "the model is a file in this folder", fix="give the file: {file}")

Layout = Literal["hf", "meta", "gguf"]
CONFIG_FILE = "config.json"
PARAMS_FILE = "params.json"
SAFETENSORS = "*.safetensors"
CONSOLIDATED = "consolidated.*.pth"
GGUF_MAGIC = b"GGUF"


def layout_of(path: str | Path) -> Layout:
    """The layout of the model at `path`, told by the names of its files. Raises CheckpointError."""
    path = Path(path)
    if path.is_file():
        if _starts_with(path, GGUF_MAGIC):
            return "gguf"
        raise NO_GGUF(path, magic=GGUF_MAGIC)
    if (path / CONFIG_FILE).is_file() and (any(path.glob(SAFETENSORS)) or not _is_meta(path)):
        return "hf"
    if _is_meta(path):
        return "meta"
    if inside := sorted(path.glob("*.gguf")):
        raise GGUF_INSIDE(path, file=inside[0])
    raise NO_MODEL(path, why=f"the folder holds {listing(path)}" if path.is_dir() else "there is no such folder")


def holds_model(path: Path) -> bool:
    """Whether `layout_of` knows a model at `path`."""
    try:
        layout_of(path)
    except CheckpointError:
        return False
    return True


def listing(folder: Path) -> str:
    """A few names of what a folder holds, for messages."""
    names = sorted(path.name for path in folder.iterdir())[:5] if folder.is_dir() else []
    return ", ".join(names) or "nothing"


def _is_meta(folder: Path) -> bool:
    return (folder / PARAMS_FILE).is_file() and any(folder.glob(CONSOLIDATED))


def _starts_with(path: Path, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic
