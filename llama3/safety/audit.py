"""The audit log: a line of JSON for the policy that decides, and one for each decision, with all that it takes to find
the decision again (llama3.safety.logged). Texts are in it only where that is asked for; else their length and hash, and
those of reasons, which may quote them. URLs of the policy are in it without user and password.

Lines are appended whole or not at all, so that processes may share a file. What cannot be written down is not decided:
the error goes to whoever asked.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from llama3.errors import ConfigError, without_credentials
from llama3.safety.decision import Decision
from llama3.safety.guard import Action, GuardInput, Verdict
from llama3.safety.policy import Leaf, Policy, plain_policy

NOT_WRITABLE = ConfigError.declare(
    "L3-SAF-050",
    "the audit log cannot be written ({error})",
    why="nothing is decided that is not written down",
    fix="name a file in a folder that is there and writable",
)

SCHEMA = 1
_OWN_CODE = re.compile(r"\[(L3-[A-Z]{3}-\d{3})\]")
"""The code of an error of this package, as a text tells it."""


@dataclass(frozen=True, slots=True)
class LeafVerdict:
    """What came of asking the guard of a leaf. `said` is its own action, before thresholds; None where it failed."""

    leaf: Leaf
    verdict: Verdict
    said: Action | None


class AuditLog:
    """Appends to a file. `texts`: whether judged texts, with what they answer to, are written down too."""

    def __init__(self, path: Path, *, texts: bool = False) -> None:
        self.path, self.texts = path, texts
        self._hash = ""
        self._numbers: dict[int, int] = {}

    def begin(self, policy: Policy) -> None:
        """Write the policy down by which decisions follow. Raises ConfigError where that cannot be written."""
        plain = logged_policy(policy)
        self._hash = policy_hash(policy)
        self._numbers = {id(leaf): number for number, (_, leaf) in enumerate(policy.leaves())}
        self._append({"event": "policy", "schema_version": SCHEMA, "policy": self._hash, "stages": plain})

    def record(self, decision: Decision, x: GuardInput, asked: Iterable[LeafVerdict]) -> None:
        """Write a decision down. Raises ConfigError where it cannot be written whole; the log is then as it was."""
        row: dict[str, Any] = {
            "event": "decision",
            "schema_version": SCHEMA,
            "policy": self._hash,
            "request": x.request_id,
            "stage": decision.stage,
            "action": decision.action,
            "redacted": [list(marks) for marks in decision.marked],
            "begins": x.begins,
            "ends": x.ends,
            "characters": len(x.text),
            "text_sha256": text_hash(x.text),
            "verdicts": [self._told(one) for one in asked],
        }
        if self.texts:
            trace = [{"role": turn.role, "content": turn.content} for turn in x.trace]
            row |= {"text": x.text, "trace": trace, "language": x.language, "tools": x.tools}
        self._append(row)

    def _told(self, one: LeafVerdict) -> dict[str, Any]:
        verdict = one.verdict
        return {
            "leaf": self._numbers[id(one.leaf)],
            "guard": verdict.guard,
            "version": verdict.version,
            "status": verdict.status,
            "said": one.said,
            "action": verdict.action,
            "p": verdict.p,
            "categories": dict(verdict.categories),
            "spans": [[span.start, span.end, span.category] for span in verdict.spans],
            "reason": verdict.reason if self.texts else _outline(verdict.reason),
            "ms": round(verdict.ms, 3),
        }

    def _append(self, row: dict[str, Any]) -> None:
        # As ASCII: texts may have surrogates, which UTF-8 does not write.
        created = time.time()
        line = json.dumps({"created": round(created, 3), **row}, allow_nan=False)
        try:
            with self.path.open("ab+", buffering=0) as file:
                _append_line(file, line.encode("ascii") + b"\n")
        except OSError as error:
            raise NOT_WRITABLE(self.path, error=error.strerror or error) from error


def _append_line(file: FileIO, line: bytes) -> None:
    """Append a line whole, and on a line of its own where a process was killed as it wrote the last. Raises OSError;
    what was written of it is cut off again then."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        _write(file, line)
        return
    fcntl.flock(file, fcntl.LOCK_EX)  # the file's end is ours until it is closed
    end = file.seek(0, os.SEEK_END)
    is_torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
    try:
        _write(file, b"\n" + line if is_torn else line)
    except BaseException:
        file.truncate(end)
        raise


def _write(file: FileIO, data: bytes) -> None:
    """All of it: a full disk takes a part, and says so only when the rest is tried."""
    while data:
        written = file.write(data)
        if not written:
            raise OSError(errno.EIO, "nothing more is taken")
        data = data[written:]


def _outline(reason: str) -> str:
    """Of a reason the codes of errors, its length and its hash: it may quote what was judged."""
    if not reason:
        return ""
    codes = dict.fromkeys(_OWN_CODE.findall(reason))
    return ", ".join([*codes, f"{len(reason)} characters", f"sha256 {text_hash(reason)}"])


def logged_policy(policy: Policy) -> dict[str, Any]:
    """The policy as a config writes it, without the credentials of URLs."""
    plain: dict[str, Any] = bare_urls(plain_policy(policy))
    return plain


def bare_urls(value: Any) -> Any:
    """Plain data whose URLs name no user and no password."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, Mapping):
        return {key: bare_urls(child) for key, child in value.items()}
    return [bare_urls(child) for child in value] if isinstance(value, list | tuple) else value


def policy_hash(policy: Policy) -> str:
    """sha256 of the policy as the log has it, in the order in which its guards are counted."""
    return hashlib.sha256(json.dumps(logged_policy(policy)).encode()).hexdigest()


def text_hash(text: str) -> str:
    """sha256 of a text, which may have surrogates."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
