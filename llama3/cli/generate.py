"""`llama3 generate`: answers to prompts, one line of JSON or plain text each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llama3.cli.output import JsonOption, json_text, require_stdout, say
from llama3.errors import ConfigError, GuardBlocked, Problem

NO_PROMPTS = ConfigError.declare("L3-CLI-020", "no prompts", fix="give them as arguments or one per line")

MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed gives the same answers.")]
DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where the model computes.")]
TpOption = Annotated[
    int,
    typer.Option("--tp", "--tensor-parallel-size", min=1, max=1024, help="Processes that share each matrix."),
]
PpOption = Annotated[
    int, typer.Option("--pp", "--pipeline-parallel-size", min=1, max=1024, help="Processes that share the layers.")
]
AuditOption = Annotated[
    Path | None,
    typer.Option(
        "--audit", dir_okay=False, help="Append each decision of the guards to a file, for llama3 guard replay."
    ),
]
AuditTextsOption = Annotated[
    bool, typer.Option("--audit-texts", help="Write down the texts too, not only their hashes.")
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A run, a release, or a checkpoint.")]


def generate(
    model: ModelArgument,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Default: lines of stdin.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=65_536, help="Answers per prompt.")] = 1,
    max_tokens: MaxTokensOption = 64,
    temperature: TemperatureOption = 0.6,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    tp: TpOption = 1,
    pp: PpOption = 1,
    audit: AuditOption = None,
    audit_texts: AuditTextsOption = False,
    json: JsonOption = False,
) -> None:
    """Continue prompts. The guards of the run see every prompt and answer; exit code 5 where one refused."""
    from llama3.cli.guarding import open_policy
    from llama3.safety.guard import Turn
    from llama3.serving.shared import Sharing, engine_of, follows, opened, serve_rank

    if follows():
        serve_rank(model, device=device, sharing=Sharing(tp, pp))
        return
    require_stdout()
    texts = list(prompts) if prompts else [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise NO_PROMPTS("stdin")
    refused: list[Problem] = []
    with open_policy(model, audit, audit_texts=audit_texts) as guards:
        allowed = []
        for text in texts:
            try:
                decision = guards.decide("input", text)
                decision.raise_if_blocked()
                allowed.append(decision.text)
            except GuardBlocked as error:
                refused.extend(error.problems)
        with opened(model, device=device, sharing=Sharing(tp, pp)) as (llama, ranks):
            engine_of(llama, ranks)
            answers = llama.generate(allowed, max_tokens=max_tokens, temperature=temperature, seed=seed, n=n)
        for prompt, group in zip(allowed, answers, strict=True):
            for answer in [group] if n == 1 else group:
                try:
                    told = guards.judge_answer(answer, [Turn("user", prompt)])
                except GuardBlocked as error:
                    refused.extend(error.problems)
                else:
                    say(json_text({"prompt": prompt, "answer": told}) if json else told)
    if refused:
        raise GuardBlocked.of(refused)
