"""Metrics on a port of their own, and what is logged of paths."""

from __future__ import annotations

import json
import logging
import re
import socket

import httpx
import pytest
from web import NAME, running

from llama3.cli import app as cli
from llama3.serving.keys import ApiKeys
from llama3.testing.toys import toy_llama

KEY = "a-key-of-the-tests"


def test_metrics_have_a_port_of_their_own(tmp_path):
    (tmp_path / "keys").write_text(KEY)
    with running(toy_llama(), keys=ApiKeys.load(tmp_path / "keys"), metrics_port=0) as site:
        header = {"Authorization": f"Bearer {KEY}"}
        assert site.http.get("/v1/models", headers=header).status_code == 200
        assert site.http.get("/metrics").status_code == 401
        assert site.http.get("/metrics", headers=header).status_code == 404
        url = site.server.metrics_url
        assert 'llama3_requests_total{route="/v1/models",status="200"} 1.0' in httpx.get(url).text
        inside = url.removesuffix("/metrics")
        for path in ("/", "/v1/models", "/health/live", "/nothing"):
            assert httpx.get(inside + path, headers=header).status_code == 404
        assert (
            httpx.post(f"{inside}/v1/completions", json={"model": NAME, "prompt": "a"}, headers=header).status_code
            == 404
        )
        assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 403
        assert inside.startswith("http://127.0.0.1:")


def test_metrics_are_told_to_this_machine_alone(tmp_path):
    (tmp_path / "keys").write_text(KEY)
    with running(toy_llama(), keys=ApiKeys.load(tmp_path / "keys"), host="0.0.0.0", metrics_port=0) as site:
        bound = [socket.getsockname()[0] for listener in site.server.servers for socket in listener.sockets]
        assert sorted(bound) == ["0.0.0.0", "127.0.0.1"]


def test_the_port_of_metrics_is_looked_at_before_the_model_is_loaded(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as caught:
        cli.main(["serve", str(tmp_path), "--port", "0", "--metrics-port", str(taken.getsockname()[1])])
    assert caught.value.code == 2
    assert re.search(r"--metrics-port.*L3-SRV-023", capsys.readouterr().err)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with pytest.raises(SystemExit):
        cli.main(["serve", str(tmp_path), "--port", port, "--metrics-port", port])
    assert re.search(r"--metrics-port.*L3-SRV-023", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/v1/models/a-secret-name", "/v1/models/{name:path}"),
        ("/health/live", "/health/live"),
        ("/nothing%0a%1b[31m/" + "a" * 100 + "canary", "/nothing\\n\\x1b[31m/" + "a" * 25),
    ],
)
def test_paths_are_logged_by_their_routes(caplog, path, logged):
    with caplog.at_level(logging.INFO, logger="llama3.serving.access"), running(toy_llama()) as site:
        site.http.get(path)
    (line,) = [json.loads(record.getMessage()) for record in caplog.records if record.name.endswith("access")]
    assert line["path"] == logged
