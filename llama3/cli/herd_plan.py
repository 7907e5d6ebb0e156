"""The plan of a herd: what each size will do, and the sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llama3.errors import ConfigError

if TYPE_CHECKING:
    from llama3.config import Loaded

HERD_HEAD = ("SIZE", "PARAMETERS", "BEGINS WITH", "STEPS", "TOKENS", "TRAINING", "ROUNDS", "LEARNS FROM")
SUM = "sum"


def herd_report(loaded: Loaded, *, with_probe: bool) -> dict[str, Any]:
    """{source, sizes: {NAME: the plan of a run, and `herd`: {begins_with, rounds, prompts, answers, members, algorithm,
    learns_from}}, sum: {steps, tokens, seconds}, problems}. Sizes are raised one after the other. A twin without its
    teacher repeats the rounds of its size; what rounds cost depends on the answers, so that only the pretraining has
    seconds."""
    from llama3.preflight import model_config
    from llama3.scaling.run_plan import NO_PRETRAINING, RunPlan, report_of
    from llama3.sized import order, shape_of, sized

    sizes: dict[str, Any] = {}
    for name in order(loaded.config):
        own, model = sized(loaded, name), shape_of(loaded, name, model_config)
        assert model is not None, "every config has a shape"
        try:
            found = report_of(RunPlan.of(own, model=model), with_probe=with_probe)
        except ConfigError as error:
            if any(problem.code != NO_PRETRAINING.code for problem in error.problems):
                raise
            found = {"model": {"parameters": model.num_params()}, "phases": [], "steps": 0, "tokens": 0, "problems": []}
        sizes[name] = found | {"herd": _about(loaded, name, own)}
    every = list(sizes.values())
    total = {name: sum(report[name] for report in every) for name in ("steps", "tokens")}
    total["seconds"] = sum(report["seconds"]["training"] for report in every if "seconds" in report)
    problems = [problem for report in every for problem in report["problems"]]
    return {"source": loaded.source, "sizes": sizes, SUM: total, "problems": problems}


def _about(loaded: Loaded, name: str, own: Loaded) -> dict[str, Any]:
    section, post = loaded.config.sizes[name], own.config.post_training
    begins = f"{section.prune.of}, pruned" if section.prune else own.config.model.path or "random weights"
    from_others = {"teacher": section.teacher, "judge": section.judge}
    return {
        "begins_with": begins,
        "rounds": post.rounds if post.data is None else 0,
        "prompts": {"reject": post.reject.prompts, "prefer": post.prefer.prompts},
        "answers": {"reject": post.reject.samples, "prefer": post.prefer.samples},
        "members": {"sft": post.sft.members, "prefer": post.prefer.members},
        "algorithm": post.algorithm.name,
        "learns_from": {role: other for role, other in from_others.items() if other},
        "control": section.control,
    }


def herd_rows(report: Mapping[str, Any]) -> Iterator[list[str]]:
    """The table for people: HERD_HEAD."""
    from llama3.scaling.run_plan import duration

    for name, found in report["sizes"].items():
        herd = found["herd"]
        seconds = found["seconds"]["training"] if "seconds" in found else None
        learns = ", ".join(f"{role} {other}" for role, other in herd["learns_from"].items())
        yield [
            name,
            f"{found['model']['parameters']:,}",
            herd["begins_with"],
            f"{found['steps']:,}",
            f"{found['tokens']:,}",
            "-" if seconds is None else duration(seconds),
            _rounds(herd),
            (learns or "-") + " (and a twin without)" * herd["control"],
        ]
    total = report[SUM]
    yield [SUM, "", "", f"{total['steps']:,}", f"{total['tokens']:,}", duration(total["seconds"]), "", ""]


def _rounds(herd: Mapping[str, Any]) -> str:
    if not herd["rounds"]:
        return "0"
    asked = ", ".join(
        f"{stage} {herd['prompts'][stage]:,} x {herd['answers'][stage]}" for stage in ("reject", "prefer")
    )
    return f"{herd['rounds']}: {asked}, {herd['algorithm']}"
