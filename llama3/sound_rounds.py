"""The gate at the end of a round of the recipe: what its audits find ends the run."""

from __future__ import annotations

from llama3.artifacts import Artifact
from llama3.config import Config
from llama3.errors import GateFailed
from llama3.evaluation.audit_remedies import remedy
from llama3.evaluation.contamination import require_clean
from llama3.evaluation.round_audit import RoundAuditOptions, audit_round
from llama3.evaluation.stages import ContaminationOptions, contamination
from llama3.execution import Executor
from llama3.outcome import Round
from llama3.posttraining.probe import RoundProbeOptions, probe
from llama3.quality.embedding_entropy import EmbeddingEntropyOptions, embedding_entropy

UNSOUND = GateFailed.declare(
    "L3-RND-001",
    "a round of post-training is not sound",
    why="{why}",
    fix="{fix}",
)


def require_sound(
    make: Executor, config: Config, n: int, base: Artifact, done: Round, earlier: tuple[Round, ...]
) -> None:
    """Nothing happens where the audits of a round find nothing, or none is asked for (`post_training.audit`): then what
    an earlier one found no longer stands for this run.

    Raises GateFailed with all they found: L3-RND-001, and L3-EVL-030 for held-out tasks among what was learnt.
    """
    if config.post_training.audit is None:
        make.withdraw(f"audit-{n}")
        return
    searched = {"corpus": make.made["curate"], "tokenizer": base}
    learnt = {"dialogs": done.dialogs, "preferences": done.pairs}
    compared = {"dialogs": done.dialogs, "first": earlier[0].dialogs if earlier else done.dialogs}
    meanings = EmbeddingEntropyOptions.of(config)
    require_clean(make(contamination, f"leaks-{n}", ContaminationOptions.of(config), **searched, **learnt))
    options = RoundProbeOptions.of(config, n)
    found = make(
        audit_round,
        f"audit-{n}",
        RoundAuditOptions.of(config),
        **learnt,
        before=make(probe, f"probe-sft-{n}", options, checkpoint=done.tuned),
        after=make(probe, f"probe-prefer-{n}", options, checkpoint=done.preferred),
        judge=done.judge,
        earlier=earlier[-1].judge if earlier else None,
        first=earlier[0].dialogs if earlier else None,
        embeddings=make(embedding_entropy, f"meanings-{n}", meanings, checkpoint=base, **compared),
    )
    if not found.metrics["passed"]:
        raise GateFailed.of(
            [
                UNSOUND.problem(f"round {n}: {found.location.name}", why=why, fix=remedy(why))
                for why in found.metrics["why"]
            ]
        )
