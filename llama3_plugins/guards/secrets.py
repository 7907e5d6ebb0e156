"""Keys, tokens and passwords in texts and in code: by the prefixes that services give theirs, by the name they are
assigned to, and by chance (high entropy). Every repetition is bounded or of one class, so that time stays linear.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

_PREFIXED = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Za-z])"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}"  # GitHub, GitLab
    r"|sk-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{30,}"  # makers of models
    r"|(?:sk|rk)_(?:live|test)_[0-9A-Za-z]{16,}"  # Stripe
    r"|xox[abeprs]-[\w-]{10,}|xapp-[\w-]{20,}"  # Slack
    r"|AIza[\w-]{35,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}"  # Google
    r"|SG\.[\w-]{16,}\.[\w-]{16,}"  # SendGrid
    r"|npm_[A-Za-z0-9]{36,}|pypi-[\w-]{40,}|dop_v1_[0-9a-f]{40,}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32,}"
    r"|\d{8,10}:AA[\w-]{33,}"  # Telegram
    r"|AGE-SECRET-KEY-1[0-9A-Z]{40,}"
    r")"
)
_BEFORE_CLAIMS = re.compile(r"(?<![\w-])[\w-]++(?=\.eyJ[\w-]{10})")
_HEADER = re.compile(r"(?<![A-Za-z0-9_])eyJ(?=[\w-]{10})")
_CLAIMS = re.compile(r"\.eyJ[\w-]++(?:\.[\w-]*+)?")
"""Of JSON web tokens. What stands before the second part is looked at once, however often it looks like a beginning."""
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\s{0,3}[A-Za-z-]{2,20}: [^\n]{0,80}\n){0,3}"
    r"(?:[A-Za-z0-9+/=]+|\\[nr]|[\r\n]+[ \t>]*)*+(?:-----END [A-Z0-9 ]{0,40}-----)?"
)
"""To its end, or as far as it goes."""
_IN_URL = re.compile(r"(?<=://)[^\s:/@]{0,60}:([^\s:/@{}<>$*]{3,60})@")
_NAMED = re.compile(
    r"(?i)(?<![a-z])(?:api|access|auth|client|secret|private|signing|bearer|refresh|session|encryption)?[_ -]?"
    r"(?:key|token|secret|passw(?:or)?d|pwd|credentials?)\b[\"']?\s{0,3}(?:[:=]|=>|:=|is)\s{0,3}[\"'`]?"
    r"([A-Za-z0-9+/_=.!@#%^&*-]{12,120})(?![A-Za-z0-9+/_=-])"
)
_RANDOM = re.compile(r"(?<![A-Za-z0-9+/_=.-])[A-Za-z0-9+/_-]{32,120}={0,2}(?![A-Za-z0-9+/_=-])")
_PLACEHOLDER = re.compile(
    r"(?i)x{4,}|\*{3,}|\.{3}|your|example|placeholder|change.?me|redacted|dummy|sample|<|env|getenv"
)
_HEX = re.compile(r"[0-9a-fA-F-]+")
_WORDY = re.compile(r"[a-z]{9,}|(?:[A-Z]?[a-z]{2,}[_/.-]?){4,}\d*")


def secrets_in(text: str, *, nameless: bool = True) -> Iterator[tuple[int, int, bool]]:
    """From, to, and whether more text can only make it longer. `nameless`: also what only chance would write."""
    for match in _PRIVATE_KEY.finditer(text):
        yield match.start(), match.end(), True
    for match in _PREFIXED.finditer(text):
        if not _PLACEHOLDER.search(match[0]):
            yield match.start(), match.end(), not match[0].startswith(("AKIA", "ASIA", "ABIA", "ACCA"))
    for start, end in _web_tokens(text):
        if not _PLACEHOLDER.search(text, start, end):
            yield start, end, True
    for match in _IN_URL.finditer(text):
        if not _PLACEHOLDER.search(match[1]):
            yield *match.span(1), False
    for match in _NAMED.finditer(text):
        if is_key_like(match[1]):
            yield *match.span(1), False
    for match in _RANDOM.finditer(text) if nameless else ():
        if _is_random(match[0]):
            yield match.start(), match.end(), False


def _web_tokens(text: str) -> Iterator[tuple[int, int]]:
    """`eyJ...`, a dot, `eyJ...`, and the signature where it is there."""
    end = 0
    for run in _BEFORE_CLAIMS.finditer(text):
        header = _HEADER.search(text, run.start(), run.end())
        if header and header.start() >= end:
            claims = _CLAIMS.match(text, run.end())
            assert claims is not None  # it was looked ahead at
            end = claims.end()
            yield header.start(), end


def is_key_like(value: str) -> bool:
    """Whether a value that is called a key or password looks like one: letters and digits, of some variety."""
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return mixed and entropy(value) >= 2.8 and not _PLACEHOLDER.search(value) and not _is_expression(value)


def entropy(text: str) -> float:
    """Bits per character, by the frequency of each in the text."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def _is_random(run: str) -> bool:
    """Whether nobody would have written a run of characters by hand: of all kinds, and of many of them."""
    kinds = [sum(map(kind, run)) for kind in (str.islower, str.isupper, str.isdigit)]
    if min(kinds) < 3 or _HEX.fullmatch(run) or run.count("/") > len(run) / 8:
        return False
    return entropy(run) >= 4.3 and not _WORDY.search(run) and not _PLACEHOLDER.search(run)


_EXPRESSION = re.compile(r"[A-Za-z_][a-z]*+(?:_[A-Za-z_]*+)?\d?(?:[._-][A-Za-z_]++\d?)*+")
"""No character can be read in two ways: else each `_` of a name would double the time."""


def _is_expression(value: str) -> bool:
    """`config.api_key2` and the like: code that names a key."""
    return _EXPRESSION.fullmatch(value) is not None
