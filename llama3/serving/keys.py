"""API keys: only their hashes are kept, and looking one up takes the same time whether it is there or not."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from llama3.errors import ConfigError

NO_KEYS = ConfigError.declare(
    "L3-SRV-020",
    "no API key can be read ({error})",
    fix="write one key of 16 characters or more on each line, or sha256: and the hash of one in hex",
)

SHORTEST = 16
LONGEST = 4096
_HASHED = re.compile("sha256:([0-9a-fA-F]{64})")


class ApiKeys:
    """The keys of a server. A key's tenant is the beginning of its hash."""

    def __init__(self, hashes: list[bytes]) -> None:
        self._hashes = hashes

    @classmethod
    def load(cls, path: Path) -> ApiKeys:
        """From a file with a key, or `sha256:` and its hash, on each line; lines that begin with # are comments."""
        try:
            lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise NO_KEYS(path, error=error) from None
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise NO_KEYS(path, error="it holds none")
        for number, line in enumerate(lines, 1):
            if line in keys and (wrong := _wrong(line)):
                raise NO_KEYS(f"{path}:{number}", error=wrong)
        return cls([_hash_of(key) for key in keys])

    def tenant(self, key: str) -> str | None:
        """Whose key this is; None: nobody's."""
        asked = hashlib.sha256(key[:LONGEST].encode("utf-8", "surrogatepass")).digest()
        found = None
        for known in self._hashes:
            if hmac.compare_digest(known, asked):
                found = known.hex()[:16]
        return found


def _wrong(line: str) -> str:
    """Why a line is no key that a client could send; nothing: it is one."""
    if line.startswith("sha256:"):
        return "" if _HASHED.fullmatch(line) else "what follows sha256: is no hash of 64 digits in hex"
    if not (line.isascii() and line.isprintable()):
        return "it holds other characters than printable ones of ASCII"
    return "" if SHORTEST <= len(line) <= LONGEST else f"it has not {SHORTEST} to {LONGEST:,} characters"


def _hash_of(line: str) -> bytes:
    hashed = _HASHED.fullmatch(line)
    return bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(line.encode()).digest()
