"""What the server tells of itself: metrics, one line of JSON per request without anything that was said, observers."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llama3.plugins.observers import Observers
from llama3.serving.record import Record

access = logging.getLogger("llama3.serving.access")
log = logging.getLogger(__name__)
CONTENT_TYPE = CONTENT_TYPE_LATEST
CACHE = ("free", "cached", "promised", "pinned")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Telemetry:
    """Counts requests and tells of each that is over.

    counts: what is there now (`Service.counts`); model: its name; asked: the routes that observers are told of
    """

    def __init__(
        self, counts: Callable[[], dict[str, int]], model: str, asked: frozenset[str], observers: Observers
    ) -> None:
        self._model, self._asked, self._observers = model, asked, observers
        self._registry = CollectorRegistry()
        self._registry.register(_Now(counts))
        registry = self._registry
        self._requests = Counter("llama3_requests", "That are over.", ["route", "status"], registry=registry)
        self._prompt = Counter("llama3_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._generated = Counter("llama3_generated_tokens", "Tokens of answers.", registry=registry)
        self._took = Histogram(
            "llama3_request_seconds", "Of a request.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._first = Histogram(
            "llama3_first_token_seconds", "Until an answer begins.", buckets=_SECONDS, registry=registry
        )

    def end(self, record: Record) -> None:
        """The request is over."""
        route = record.route if record.is_known else "other"
        self._requests.labels(route, str(record.status)).inc()
        self._took.labels(route).observe(record.seconds)
        self._prompt.inc(record.prompt_tokens)
        self._generated.inc(record.completion_tokens)
        if record.first_token is not None:
            self._first.observe(record.first_token)
        access.info("%s", json.dumps(_line(record)))
        if record.method == "POST" and record.route in self._asked:
            notify = partial(self._observers.notify, "llama3_request_end", **_facts(record, self._model))
            asyncio.get_running_loop().run_in_executor(None, notify)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def _facts(record: Record, model: str) -> dict[str, Any]:
    """What observers are told: nothing of what was said."""
    seconds = record.seconds
    return {
        "request_id": record.id,
        "outcome": record.error or ",".join(sorted(set(record.finish))),
        "timings": {"seconds": seconds, "first_token_seconds": record.first_token or seconds, **record.stages},
        "request": {
            "route": record.route,
            "model": model,
            "status": record.status,
            "key": record.tenant,
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": record.completion_tokens,
            "finish": record.finish,
            "parent": record.parent,
            "ended": time.time(),
        },
    }


def _line(record: Record) -> dict[str, object]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "id": record.id,
        "method": record.method,
        "path": record.route,
        "status": record.status,
        "key": record.tenant,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "finish": record.finish,
        "error": record.error,
        "seconds": round(record.seconds, 4),
    }


class _Now(Collector):
    """What is there at the moment of asking."""

    def __init__(self, counts: Callable[[], dict[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        now = self._counts()
        yield GaugeMetricFamily("llama3_requests_waiting", "Requests that wait for the engine.", now["waiting"])
        yield GaugeMetricFamily("llama3_answers_running", "Answers that the engine runs.", now["running"])
        blocks = GaugeMetricFamily("llama3_cache_blocks", "Blocks of the KV cache.", labels=["state"])
        for state in CACHE:
            blocks.add_metric([state], now[state])
        yield blocks
        hits = GaugeMetricFamily("llama3_cache_hit_ratio", "Share of prompt tokens found in the cache.")
        hits.add_metric([], now["hit_tokens"] / max(1, now["prompt_tokens"]))
        yield hits
        yield CounterMetricFamily("llama3_draft_tokens_proposed", "Tokens that were guessed.", now["drafted"])
        yield CounterMetricFamily("llama3_draft_tokens_accepted", "Of them those that were right.", now["accepted"])
