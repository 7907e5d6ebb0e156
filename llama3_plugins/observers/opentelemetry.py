"""A span of OpenTelemetry for every request to a server: sizes, times and reasons, nothing of what was said.

Spans go to the provider that the process has (`opentelemetry-instrument` sets one), else to the collector that
OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT names; with neither there are none. Attributes have
the names of OpenTelemetry's conventions for HTTP and for generative models, and where these have none, vLLM's.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
LATENCIES = {
    "seconds": "gen_ai.latency.e2e",
    "first_token_seconds": "gen_ai.latency.time_to_first_token",
    "queue_seconds": "gen_ai.latency.time_in_queue",
    "prefill_seconds": "gen_ai.latency.time_in_model_prefill",
    "decode_seconds": "gen_ai.latency.time_in_model_decode",
}


def record_span(request_id: str, outcome: str, timings: dict[str, float], request: dict[str, Any]) -> None:
    """Tell of a request that is over, as a part of the trace that its client began, if it did."""
    ended = request["ended"]
    parent = TraceContextTextMapPropagator().extract(request["parent"])
    attributes = {
        "http.request.method": "POST",
        "http.route": request["route"],
        "http.response.status_code": request["status"],
        "gen_ai.request.model": request["model"],
        "gen_ai.response.id": request_id,
        "gen_ai.usage.input_tokens": request["prompt_tokens"],
        "gen_ai.usage.output_tokens": request["completion_tokens"],
        "gen_ai.response.finish_reasons": request["finish"],
        "llama3.key": request["key"],
    }
    attributes |= {LATENCIES[name]: seconds for name, seconds in timings.items() if name in LATENCIES}
    span = _tracer().start_span(
        f"POST {request['route']}",
        context=parent,
        kind=trace.SpanKind.SERVER,
        attributes=attributes,
        start_time=_nanoseconds(ended - timings["seconds"]),
    )
    if request["status"] >= 500:
        span.set_status(trace.StatusCode.ERROR, outcome)
    if request["status"] >= 400:
        span.set_attribute("error.type", outcome)
    span.end(_nanoseconds(ended))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


@cache
def _tracer() -> trace.Tracer:
    is_unset = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    if is_unset and any(map(os.environ.get, ENDPOINTS)):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "llama3")})
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
    return trace.get_tracer("llama3")
