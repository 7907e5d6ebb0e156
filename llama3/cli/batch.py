"""`llama3 batch`: a file of requests answered as the server would answer them; the same command again goes on."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli.generate import AuditOption, AuditTextsOption, DeviceOption, ModelArgument, PpOption, TpOption
from llama3.cli.output import JsonOption, print_json, print_table
from llama3.cli.serve import KvDtypeOption, MaxBatchOption, NameOption, SpeculativeOption
from llama3.errors import LlamaError

if TYPE_CHECKING:
    from llama3.serving.batch_answers import Answers
    from llama3.serving.record import Record
    from llama3.serving.shared import Sharing

ERRORS = LlamaError.declare(
    "L3-CLI-022", "{errors} of {lines} answers are errors", fix="see `error` in those lines; the others are answers"
)


def batch(
    model: ModelArgument,
    prompts: Annotated[Path, typer.Argument(dir_okay=False, help="Requests, in OpenAI's batch format.")],
    answers: Annotated[Path, typer.Argument(dir_okay=False, help="A new file, or one that this command began.")],
    name: NameOption = None,
    max_batch: MaxBatchOption = 32,
    speculative: SpeculativeOption = "off",
    kv_cache_dtype: KvDtypeOption = "auto",
    device: DeviceOption = "auto",
    tp: TpOption = 1,
    pp: PpOption = 1,
    audit: AuditOption = None,
    audit_texts: AuditTextsOption = False,
    json: JsonOption = False,
) -> None:
    """Answer the requests of a file, guarded as the model's run says. Exit code 1 where an answer is an error."""
    from llama3 import _core
    from llama3.checkpoints.adopt import content_hash
    from llama3.inference.llama import find_model
    from llama3.serving.batch_answers import Answers
    from llama3.serving.batch_lines import check_lines
    from llama3.serving.shared import Sharing, follows, serve_rank

    sharing = Sharing(tp, pp)
    if follows():
        serve_rank(model, device=device, sharing=sharing)
        return
    called = name or Path(model).resolve().name
    lines = check_lines(prompts, called)
    made_of = {"model": content_hash(find_model(Path(model))), "requests": _core.blake3_file(str(prompts))}
    with Answers(answers, made_of) as kept:
        before = len(kept.ids)
        guarded = {"audit": audit, "audit_texts": audit_texts}
        service = {"max_batch": max_batch, "speculative": speculative, "kv_dtype": kv_cache_dtype}
        work = _answer(model, called, prompts, kept, lines, device, sharing, service, guarded) if before < lines else {}
    summary = {"lines": lines, "errors": kept.errors, "answered_before": before, **work}
    if json:
        print_json({"path": str(answers), **summary})
    else:
        print_table([(key.replace("_", " "), f"{value:,}") for key, value in summary.items()])
    if kept.errors:
        raise ERRORS(answers, errors=kept.errors, lines=lines)


def _answer(
    model: str,
    called: str,
    prompts: Path,
    kept: Answers,
    lines: int,
    device: str,
    sharing: Sharing,
    options: dict[str, Any],
    guarded: dict[str, Any],
) -> dict[str, float]:
    """Answer what has no answer yet, by a `Service` and guards with these options; the figures of that."""
    from llama3.artifacts.progress import Display
    from llama3.cli.guarding import open_policy
    from llama3.serving.batch import answer_all
    from llama3.serving.batch_lines import read_lines
    from llama3.serving.forms import MOST_PROMPTS
    from llama3.serving.served import Served
    from llama3.serving.service import Service
    from llama3.serving.shared import opened

    at_once = 2 * options["max_batch"]  # while some are judged by guards and written, the engine has others
    tokens = Counter[str]()
    with (
        open_policy(model, **guarded) as guards,
        opened(model, device=device, sharing=sharing, guard=guards) as (llama, ranks),
        Display().task("answered", lines) as bar,
    ):
        service = Service(llama.transformer, max_queue=at_once * MOST_PROMPTS, ranks=ranks, **options)
        served = Served(llama, called, service, seconds=math.inf)
        left = (line for line in read_lines(prompts) if line.id not in kept.ids)
        bar.advance(len(kept.ids))
        began = time.monotonic()

        def told(answer: dict[str, Any], record: Record) -> None:
            kept.add(answer)
            tokens.update(prompt_tokens=record.prompt_tokens, answer_tokens=record.completion_tokens)
            bar.advance(1, **{"tokens/s": tokens["answer_tokens"] / (time.monotonic() - began)})

        asyncio.run(answer_all(served, left, kept.created, at_once, told))
        seconds = time.monotonic() - began
    return {**tokens, "seconds": round(seconds, 3), "tokens_per_second": round(tokens["answer_tokens"] / seconds, 1)}
