"""Routes that read texts and write none: embeddings, moderations, tokens and back."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llama3.errors import DataError
from llama3.safety.decision import Decision
from llama3.serving.embeddings import embeddings
from llama3.serving.fields import DetokenizeBody, EmbeddingBody, ModerationBody, TokenizeBody
from llama3.serving.served import Served
from llama3.tokenizer.tokenizer import Tokenizer


async def embed(served: Served, request: Request, body: EmbeddingBody) -> Response:
    """POST /v1/embeddings."""
    return JSONResponse(await embeddings(served, request.state.record, body))


async def moderate(served: Served, request: Request, body: ModerationBody) -> Response:
    """POST /v1/moderations: what the guards of the policy say of texts, as what a user says."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    guard, record = served.guard, request.state.record
    decisions = [
        Decision("input", "allow")
        if guard is None
        else await guard.adecide("input", text, (), record.id, record.tenant)
        for text in texts
    ]
    return JSONResponse(
        {"id": f"modr-{record.id}", "model": "policy", "results": [_result(decision) for decision in decisions]}
    )


def _result(decision: Decision) -> dict[str, Any]:
    """A category is true where a guard that objects found it at least as likely as not. `action` is what the policy
    does."""
    scores: dict[str, float] = {}
    found: dict[str, bool] = {}
    for verdict in decision.verdicts:
        objects = verdict.action != "allow"
        for category, score in verdict.categories.items():
            scores[category] = max(score, scores.get(category, 0.0))
            found[category] = found.get(category, False) or (objects and score >= 0.5)
    return {
        "flagged": decision.action != "allow",
        "action": decision.action,
        "categories": found,
        "category_scores": scores,
    }


async def tokenize(served: Served, request: Request, body: TokenizeBody) -> Response:
    """POST /tokenize: the ids that /v1/completions makes of a prompt. Without `add_special_tokens` whoever asks writes
    control tokens into the text, as lm-eval does, which renders chat templates itself."""
    served.check_name(body.model)
    if body.add_special_tokens:
        ids = served.tokenizer.encode(body.prompt, bos=True).tolist()
    else:
        ids = served.tokenizer.encode(body.prompt, allowed_special="all").tolist()
    return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": served.service.max_tokens})


async def detokenize(served: Served, request: Request, body: DetokenizeBody) -> Response:
    """POST /detokenize."""
    served.check_name(body.model)
    return JSONResponse({"prompt": served.tokenizer.decode(body.tokens)})


async def tokenizer_info(request: Request) -> Response:
    """GET /tokenizer_info: the control tokens by their roles, and the chat template."""
    tokenizer: Tokenizer = request.app.state.served.tokenizer
    names = {id: name for name, id in tokenizer.special_tokens.items()}
    try:
        eos: int | None = tokenizer.eos_id
    except DataError:  # none is named
        eos = None
    ids = {"bos_token": tokenizer.bos_id, "eos_token": eos, "pad_token": tokenizer.pad_id}
    named = {role: None if id is None else names[id] for role, id in ids.items()}
    return JSONResponse({**named, "chat_template": tokenizer.chat_template})
