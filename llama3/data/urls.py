"""One spelling for all addresses of a page, and which of several versions of it is the newest (paper 3.1.1)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_TRACKING = re.compile(
    r"(utm_\w+|gclid|dclid|fbclid|msclkid|yclid|igshid|mc_cid|mc_eid|_ga|_gl|jsessionid|phpsessid)(=|$)", re.IGNORECASE
)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PORTS = {"http": 80, "https": 443}
_PLAIN = re.compile(r"(?i:https?)://([A-Za-z0-9.-]*[A-Za-z0-9-])((?:/(?!\.)[A-Za-z0-9._~-]*)*)")
_DATE = re.compile(r"(\d{4})-?(\d{2})(?:-?(\d{2})(?:[T ]?(\d{2}):?(\d{2})(?::?(\d{2}))?)?)?")


def normalised_url(url: str) -> str:
    """The address without what does not tell pages apart: scheme, user, default port, case of the host, fragment,
    tracking parameters and their order, needless escapes, `.` and `..`. "" where it is no http(s) address of a host."""
    if plain := _PLAIN.fullmatch(url):
        return plain[1].lower() + (plain[2] or "/")  # what comes of it below: most addresses are so
    return _taken_apart(url)


def _taken_apart(url: str) -> str:
    if url.lstrip()[:4].lower() != "http":
        return ""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
        host = _host(parts.hostname or "")
    except ValueError:
        return ""
    if parts.scheme not in _PORTS or not host:
        return ""
    place = host if port in (None, _PORTS[parts.scheme]) else f"{host}:{port}"
    fields = sorted(_escaped(field) for field in parts.query.split("&") if field and not _TRACKING.match(field))
    return place + _path(_escaped(parts.path)) + ("?" + "&".join(fields) if fields else "")


def _host(name: str) -> str:
    """In lower case (urlsplit makes it so), in the ASCII form of its letters, without a last dot."""
    name = name.rstrip(".")
    return name if name.isascii() else name.encode("idna").decode()


def _escaped(text: str) -> str:
    """Percent escapes in upper case, those of letters and digits undone; what must be escaped is."""

    def one(found: re.Match[str]) -> str:
        sign = chr(int(found[1], 16))
        return sign if sign in _UNRESERVED else found[0].upper()

    raw = "".join(sign if " " < sign < "\x7f" else "".join(f"%{b:02X}" for b in sign.encode("utf-8", "replace"))
                  for sign in text)  # fmt: skip
    return _ESCAPE.sub(one, raw)


def _path(path: str) -> str:
    """The path from "/" on, its dot segments resolved (RFC 3986, section 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")[1:] or [""]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def date_key(date: str) -> int:
    """A date as a number that grows with time (YYYYMMDDhhmmss, of what is told of it), from ISO 8601 or the digits of
    it; 0 where it tells none."""
    found = _DATE.match(date.strip())
    return int("".join(part or "00" for part in found.groups())) if found else 0
