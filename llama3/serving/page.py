"""The chat page at `/`: one file that asks the same routes as everybody and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response


async def page(request: Request) -> Response:
    """GET /. It holds no secret, so it needs no key: its reader gives one in its settings."""
    html, policy = _page()
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return HTMLResponse(html, headers=headers)


@cache
def _page() -> tuple[str, str]:
    html = (files("llama3.serving") / "chat.html").read_text(encoding="utf-8")
    return html, content_policy(html, connect="'self'", forms="'none'")


def content_policy(html: str, *, connect: str, forms: str) -> str:
    """What a browser may do with a page: run its first script and its first style, and ask and send forms to these."""
    return (
        f"default-src 'none'; connect-src {connect}; img-src data:; base-uri 'none'; form-action {forms}; "
        f"frame-ancestors 'none'; script-src {_hash_of('script', html)}; style-src {_hash_of('style', html)}"
    )


def _hash_of(tag: str, html: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    assert found is not None, f"the page has no <{tag}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"
