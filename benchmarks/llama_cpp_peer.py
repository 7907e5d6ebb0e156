"""llama.cpp through the package llama-cpp-python, in process: several greedy answers as one batch of sequences, the way
its server computes them, without the server's own costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Ids = list[list[int]]
MOST_TOKENS = 4096
"""Of all sequences together."""


def facts() -> dict[str, str] | None:
    """Its version and the instruction sets that it was built for; None where it is not installed."""
    try:
        import llama_cpp
    except ImportError:
        return None
    return {
        "llama-cpp-python": llama_cpp.__version__,
        "llama.cpp": llama_cpp.llama_print_system_info().decode().strip(),
    }


def llama_cpp(path: str) -> Callable[[Ids, int], Ids]:
    """Generates with a GGUF file on one thread."""
    import llama_cpp as c

    quiet = c.llama_log_callback(lambda *_: None)
    c.llama_log_set(quiet, None)
    c.llama_backend_init()
    model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
    settings = c.llama_context_default_params()
    settings.n_ctx = settings.n_batch = MOST_TOKENS
    settings.n_seq_max, settings.kv_unified = 16, True
    settings.n_threads = settings.n_threads_batch = 1
    context = c.llama_init_from_model(model, settings)
    size = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))

    def generate(prompts: Ids, tokens: int, *, keep: object = quiet) -> Ids:
        c.llama_memory_clear(c.llama_get_memory(context), True)
        batch = c.llama_batch_init(MOST_TOKENS, 0, 1)
        answers: Ids = [[] for _ in prompts]
        new, done = prompts, [0] * len(prompts)
        for _ in range(tokens):
            last = _fill(batch, new, done)
            if c.llama_decode(context, batch):
                raise RuntimeError("llama.cpp computed nothing")
            for answer, place in zip(answers, last, strict=True):
                logits = np.ctypeslib.as_array(c.llama_get_logits_ith(context, place), shape=(size,))
                answer.append(int(logits.argmax()))
            done = [count + len(ids) for count, ids in zip(done, new, strict=True)]
            new = [answer[-1:] for answer in answers]
        c.llama_batch_free(batch)
        return answers

    return generate


def _fill(batch, new: Ids, done: list[int]) -> list[int]:  # type: ignore[no-untyped-def]
    """Put the next tokens of every sequence into the batch; where each one's last stands."""
    count, last = 0, []
    for sequence, (ids, start) in enumerate(zip(new, done, strict=True)):
        for offset, token in enumerate(ids):
            batch.token[count], batch.pos[count] = token, start + offset
            batch.n_seq_id[count], batch.seq_id[count][0] = 1, sequence
            batch.logits[count] = offset == len(ids) - 1
            count += 1
        last.append(count - 1)
    batch.n_tokens = count
    return last
