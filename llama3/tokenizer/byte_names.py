"""How tokenizer.json writes tokens of bytes as text: the alphabet of byte-level BPE (GPT-2, encoder.py)."""

from __future__ import annotations

_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {chr(256 + n): byte for n, byte in enumerate(_OTHERS)}
"""Character -> the byte that it stands for: itself, or one from U+0100 on for what does not print."""


def bytes_named(name: str) -> bytes | None:
    """The bytes of a token that is called so in a file; None where no token of bytes can have the name."""
    found = [BYTE_OF.get(character) for character in name]
    return bytes(byte for byte in found if byte is not None) if None not in found else None
