"""Small .pth files that would take hours or gigabytes: work and memory grow with the file and no faster."""

from __future__ import annotations

import struct
import zipfile

import pytest
import torch

from llama3.checkpoints.pth import MAX_PICKLE_BYTES, _Reader, read_pth
from llama3.errors import CheckpointError

DOUBLED = b"K\x01\x85" + b"q\x01h\x01\x86" * 200
"""A tuple of itself twice, 200 times over: 2 ** 200 elements, if anybody counts, hashes, compares or shows them."""


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def sequence(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: bytes, elements: bytes) -> bytes:
    return b"(" + text("storage") + b"ctorch\nFloatStorage\n" + key + text("cpu") + elements + b"tQ"


def tensor(shape: bytes, stride: bytes, *, key: bytes = text("0"), elements: bytes = number(16)) -> bytes:
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(key, elements) + number(0) + shape + stride
    return call + b"\x89ccollections\nOrderedDict\n)RtR"


def archive(path, pickle: bytes, members: int = 1):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle)
        for key in range(members):
            file.writestr(f"archive/data/{key}", b"\0" * 64)
    return path


def named(*tensors: bytes) -> bytes:
    items = b"".join(text(f"x{number}") + made for number, made in enumerate(tensors))
    return b"\x80\x02}(" + items + b"u."


PLAIN = (sequence(4, 4), sequence(4, 1))
BOMBS = {
    "as a key of the dict": b"\x80\x02}" + DOUBLED + b"K\x01s.",
    "as the name of a storage": named(tensor(*PLAIN, key=DOUBLED)),
    "as the size of a storage": named(tensor(*PLAIN, elements=DOUBLED)),
    "as a shape": named(tensor(DOUBLED, sequence(4, 1))),
    "as strides": named(tensor(sequence(4, 4), DOUBLED)),
    "as arguments": b"\x80\x02ccollections\nOrderedDict\n" + DOUBLED + b"R.",
    "as a state": b"\x80\x02}" + DOUBLED + b"b.",
    "as a value": b"\x80\x02}" + text("x") + DOUBLED + b"s.",
    "as the content": b"\x80\x02" + DOUBLED + b".",
    "a view of one element": named(tensor(sequence(1 << 24, 1 << 24), sequence(0, 0), elements=number(1))),
    "no elements of an endless axis": named(tensor(sequence(0, 1 << 60), sequence(1, 1))),
}  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_at_once(bomb, tmp_path):
    path = archive(tmp_path / "x.pth", BOMBS[bomb])
    with pytest.raises(CheckpointError, match=r"L3-PTH-00[124]") as caught:
        read_pth(path)
    assert len(str(caught.value)) < 1000


def test_tensors_together_are_no_larger_than_twice_the_file(tmp_path):
    """A row that stands for many, as torch saves an expanded tensor, is fine while the file could hold it."""
    small = read_pth(archive(tmp_path / "small.pth", named(tensor(sequence(9, 16), sequence(0, 1)))))
    assert small["x0"].shape == (9, 16)
    with pytest.raises(CheckpointError, match="times as large as the file"):
        read_pth(archive(tmp_path / "x.pth", named(tensor(sequence(9000, 16), sequence(0, 1)))))
    torch.save({"a": torch.ones(1).expand(5, 5), "b": torch.ones(3)}, tmp_path / "torch.pth")
    assert read_pth(tmp_path / "torch.pth")["a"].shape == (5, 5)


def test_marks_are_not_searched_for(tmp_path):
    """Many marks and as many containers: every step looks at the top of the stack alone."""
    count = 200_000
    pickle = b"\x80\x02" + b"(" * count + b"t" * count + b"."
    looked = []

    class Stack(list):
        def __getitem__(self, index):
            found = super().__getitem__(index)
            looked.append(len(found) if isinstance(index, slice) else 1)
            return found

    reader = _Reader(tmp_path / "x.pth", {})
    reader.stack = Stack()
    with pytest.raises(ValueError, match="tuples of tuples"):
        reader.read(pickle)
    reader = _Reader(tmp_path / "x.pth", {})
    reader.stack = Stack()
    reader.read(b"\x80\x02" + b"(" * count + b"K\x01" * count + b"t.")
    assert sum(looked) < 3 * count


def test_a_pickle_beyond_all_need_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="sensible size"):
        read_pth(archive(tmp_path / "x.pth", b"\x80\x02" + b"N" * MAX_PICKLE_BYTES + b"."))
