"""A span per request: through the observers, as any plugin would, into OpenTelemetry's own exporters."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pluggy
import pytest
import started
from web import NAME, idle, running

from llama3.checkpoints.weights import save_model
from llama3.plugins import hookspecs
from llama3.plugins.hookspecs import PROJECT, hookimpl
from llama3.plugins.observers import Observers
from llama3.serving.keys import ApiKeys
from llama3.testing.toys import toy_llama

trace = pytest.importorskip("opentelemetry.sdk.trace")
BODY = {"model": NAME, "prompt": "a canary of the tests", "max_tokens": 5, "temperature": 0}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def spans():
    from opentelemetry import trace as api
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    api.set_tracer_provider(provider)
    return exporter


def found(spans, ask):
    """The span of what is asked: it is there soon after the answer."""
    spans.clear()
    ask()
    pause = threading.Event()
    for _ in range(1000):
        if spans.get_finished_spans():
            break
        pause.wait(0.02)
    (span,) = spans.get_finished_spans()
    return span


def test_a_span_tells_sizes_and_times_and_belongs_to_the_clients_trace(spans, tmp_path):
    (tmp_path / "keys").write_text("a-key-of-the-tests")
    keys = ApiKeys.load(tmp_path / "keys")
    with running(toy_llama(), keys=keys) as site:
        site.http.headers = {"Authorization": "Bearer a-key-of-the-tests", "traceparent": PARENT, "tracestate": "a=1"}
        span = found(spans, lambda: site.http.post("/v1/completions", json={**BODY, "n": 2}))
        assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == tuple(PARENT.split("-")[1:3])
        assert span.context.trace_state.get("a") == "1"
        told = dict(span.attributes)
        assert told["http.route"] == "/v1/completions"
        assert told["http.response.status_code"] == 200
        assert told["gen_ai.request.model"] == NAME
        assert told["gen_ai.usage.input_tokens"] == len(site.llama.tokenizer.encode(BODY["prompt"], bos=True))
        assert told["gen_ai.usage.output_tokens"] == 10
        assert told["gen_ai.response.finish_reasons"] == ("length", "length")
        assert told["llama3.key"] == keys.tenant("a-key-of-the-tests")
        parts = [told[f"gen_ai.latency.{name}"] for name in
                 ("time_in_queue", "time_in_model_prefill", "time_in_model_decode")]  # fmt: skip
        assert all(part >= 0 for part in parts)
        took = told["gen_ai.latency.e2e"]
        assert took >= sum(parts)
        assert took == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-5)
        assert "canary" not in span.to_json()
        chat = {"model": NAME, "messages": [{"role": "user", "content": "a canary"}], "stream": True}
        span = found(spans, lambda: site.http.post("/v1/chat/completions", json={**chat, "max_tokens": 3}))
        assert (span.name, span.attributes["gen_ai.usage.output_tokens"]) == ("POST /v1/chat/completions", 3)
        refused = found(spans, lambda: site.http.post("/v1/completions", json={**BODY, "n": 99}))
        assert refused.attributes["http.response.status_code"] == 400
        assert refused.attributes["error.type"] == "L3-SRV-009"
        site.http.headers = {}
        alone = found(spans, lambda: site.http.post("/v1/completions", json=BODY))
        assert (alone.parent, alone.attributes["error.type"]) == (None, "L3-SRV-001")
        site.http.get("/health/live")
        assert idle(site.service)


def test_another_plugin_is_told_the_same():
    told, seen = [], threading.Event()

    class Mine:
        @hookimpl
        def llama3_request_end(self, request, timings):
            told.append((request, timings))
            seen.set()

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(Mine())
    with running(toy_llama(), observers=Observers(manager)) as site:
        site.http.post("/v1/embeddings", json={"model": NAME, "input": "a river"})
        assert seen.wait(20)
    ((request, timings),) = told
    assert (request["route"], request["status"], request["completion_tokens"]) == ("/v1/embeddings", 200, 0)
    assert {"seconds", "queue_seconds", "prefill_seconds"} <= timings.keys()


class Collector(BaseHTTPRequestHandler):
    """Takes what an OTLP exporter sends."""

    got: list[bytes] = []  # noqa: RUF012

    def do_POST(self):
        self.got.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args): ...


def test_a_server_sends_its_spans_to_a_collector_that_is_named(tmp_path):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    llama = toy_llama()
    save_model(llama.transformer, tmp_path / "tiny")
    llama.tokenizer.save(tmp_path / "tiny")
    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    command = [sys.executable, "-m", "llama3", "serve", str(tmp_path / "tiny"), "--port", "0"]
    process = started.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ})
    try:
        url = next(line.split(" at ")[1].strip() for line in process.stderr if " answers at " in line)
        assert httpx.post(f"{url}/completions", json={**BODY, "model": "tiny"}, timeout=60).status_code == 200
        process.terminate()
        process.stderr.read()
        assert process.wait(60) == 0
    finally:
        process.kill()
        collector.shutdown()
    assert b"/v1/completions" in b"".join(Collector.got)
    assert b"canary" not in b"".join(Collector.got)
