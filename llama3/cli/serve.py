"""`llama3 serve`: a model behind the HTTP interface that OpenAI's clients speak."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from llama3.cli.generate import AuditOption, AuditTextsOption, DeviceOption, ModelArgument, PpOption, TpOption
from llama3.cli.output import note
from llama3.config.serving import KvDtype, Speculative
from llama3.errors import PluginError

NEEDS = PluginError.declare(
    "L3-CLI-021",
    "serving needs the packages {packages}",
    why="they are not installed",
    fix="pip install 'llama3[serve]'",
)

NameOption = Annotated[str | None, typer.Option(help="What requests call the model. Default: its folder's name.")]
MaxBatchOption = Annotated[int, typer.Option(min=1, max=4096, help="Answers that run at once.")]
SpeculativeOption = Annotated[
    Speculative, typer.Option(help="Guess tokens of answers that repeat their prompt; answers stay the same.")
]
KvDtypeOption = Annotated[
    KvDtype,
    typer.Option("--kv-cache-dtype", help="Keep keys and values as codes of a byte: more answers fit into memory."),
]
PACKAGES = ("starlette", "uvicorn", "h11", "prometheus_client", "llguidance")


def serve(
    model: ModelArgument,
    host: Annotated[
        str, typer.Option(help="The address to listen at; others than this machine need keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any that is free.")] = 8000,
    name: NameOption = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys that may ask: one, or sha256: and its hash, per line.")
    ] = None,
    max_batch: MaxBatchOption = 32,
    max_queue: Annotated[int, typer.Option(min=1, max=65_536, help="Requests of one key that may wait.")] = 256,
    deadline: Annotated[float, typer.Option(min=1.0, help="Seconds that an answer may take.")] = 600.0,
    grace: Annotated[
        float, typer.Option(min=0.0, help="Seconds that answers may go on after SIGTERM or Ctrl-C.")
    ] = 60.0,
    speculative: SpeculativeOption = "off",
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Of each key. Default: any number.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Of each key, prompts and answers. Default: any number.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="A port of 127.0.0.1 for /metrics alone, without a key.")
    ] = None,
    kv_cache_dtype: KvDtypeOption = "auto",
    device: DeviceOption = "auto",
    tp: TpOption = 1,
    pp: PpOption = 1,
    audit: AuditOption = None,
    audit_texts: AuditTextsOption = False,
) -> None:
    """Serve a model over HTTP, guarded as its run says. Each request is told of on stderr in a line of JSON."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise NEEDS(packages=missing)
    from llama3.cli.guarding import open_policy
    from llama3.plugins.registry import discover
    from llama3.serving.limits import RateLimits
    from llama3.serving.served import Served
    from llama3.serving.server import HttpServer, keys_for, require_ports
    from llama3.serving.service import Service
    from llama3.serving.shared import Sharing, follows, opened, serve_rank

    sharing = Sharing(tp, pp)
    if follows():
        serve_rank(model, device=device, sharing=sharing)
        return
    keys = keys_for(host, api_key_file)
    require_ports(host, port, metrics_port)
    access = logging.getLogger("llama3.serving.access")
    access.setLevel(logging.INFO)
    access.propagate = False
    access.addHandler(_Lines())
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what it warns of is answered and told by us
    with (
        open_policy(model, audit, audit_texts=audit_texts) as guards,
        opened(model, device=device, sharing=sharing, guard=guards) as (llama, ranks),
    ):
        called = name or Path(model).resolve().name
        limits = RateLimits(requests_per_minute, tokens_per_minute)
        service = Service(
            llama.transformer,
            max_batch=max_batch,
            max_queue=max_queue,
            limits=limits,
            speculative=speculative,
            kv_dtype=kv_cache_dtype,
            ranks=ranks,
        )
        served = Served(llama, called, service, seconds=deadline)
        server = HttpServer(
            served,
            host=host,
            port=port,
            keys=keys,
            observers=discover().observers,
            grace=grace,
            metrics_port=metrics_port,
            told=lambda address: note(_told(called, address, server.metrics_url)),
        )
        server.run()
        if service.lost is not None:
            raise service.lost
    note("stopped")


def _told(name: str, address: str, metrics_url: str | None) -> str:
    return f"{name} answers at {address}/v1" + (f", metrics at {metrics_url}" if metrics_url else "")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())
