"""Pairs of recipes join those of a round; steps that one compared train the run's reward model, which then scores the
steps of other chains."""

from __future__ import annotations

from tiny import put, put_checkpoint, tiny_model

from llama3.artifacts import StageOutput
from llama3.config.schema import RewardSection
from llama3.making.joining import with_made_pairs, with_steps
from llama3.making.workshop import Workshop
from llama3.posttraining.finetune import RewardOptions, reward
from llama3.posttraining.sampling import build_reward
from llama3.tasks.rows import read_rows, write_rows

STEPS = ("First add the ones.", "Then add the tens.", "Now carry.", "Put both together.")
SLIPS = ("First forget the ones.", "Then guess the tens.", "Now skip it.", "Put both away.")


def chain(number: int, length: int, slip: int | None) -> str:
    return "\n".join((SLIPS if place == slip else STEPS)[(number + place) % 4] for place in range(length))


def asked(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is {number} + {number + 7}?"}]


def test_pairs_join_where_there_are_pairs(run):
    """Of an algorithm that draws its own answers there are prompts only: these stay as they are."""
    pair = {"id": "p", "messages": asked(1), "chosen": "9", "rejected": "8"}
    own = {**pair, "id": "own"}

    def with_pairs(folder) -> None:
        write_rows(folder / "preferences.jsonl", [pair])
        write_rows(folder / "prompts.jsonl", [{"id": "t"}])

    recipe = put(run, "dialogs", "recipe", lambda folder: write_rows(folder / "preferences.jsonl", [own]))
    both = put(run, "preferences", "both", with_pairs)
    prompts = put(run, "preferences", "prompts", lambda folder: write_rows(folder / "prompts.jsonl", [{"id": "t"}]))
    joined = run.execute(with_made_pairs, {"preferences": both, "math_steps": recipe})
    assert list(read_rows(joined.file("preferences.jsonl"))) == [pair, own]
    assert list(read_rows(joined.file("prompts.jsonl"))) == [{"id": "t"}]
    alone = run.execute(with_made_pairs, {"preferences": prompts, "math_steps": recipe})
    assert sorted(path.name for path in alone.path.glob("*.jsonl")) == ["prompts.jsonl"]


def test_errors_of_steps_are_detected_in_chains_that_were_not_learnt(run, tokenizer, tmp_path):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    pairs = [
        {"id": f"s{n}", "messages": asked(n), "chosen": chain(n, 1 + n % 3, None),
         "rejected": chain(n, 1 + n % 3, n % (1 + n % 3))} for n in range(48)
    ]  # fmt: skip
    whole = [{"id": "w", "messages": asked(99), "chosen": "206", "rejected": "no idea"}]
    preferences = put(run, "preferences", "pairs", lambda folder: write_rows(folder / "preferences.jsonl", whole))
    made = put(run, "dialogs", "made", lambda folder: write_rows(folder / "steps.jsonl", pairs))
    joined = run.execute(with_steps, {"preferences": preferences, "math_step_pairs": made})
    assert len(list(read_rows(joined.file("preferences.jsonl")))) == 49

    section = RewardSection(lr=3e-3, epochs=6, batch=8, precision="fp32", warmup=0, log_every=1000)
    model = run.execute(reward, {"checkpoint": base, "preferences": joined}, RewardOptions(reward=section, seed=1))

    shop = Workshop(
        StageOutput(tmp_path, tmp_path), speaker=lambda: None, judge=lambda: None, corpus=None,
        reward=build_reward((), model, "cpu"), temperature=1.0, max_tokens=8, seed=1, tokens=len, room=512,
    )  # fmt: skip
    right = 0
    for n in range(200, 224):
        length = 1 + n % 3
        both = [chain(n, length, None), chain(n, length, n % length)]
        good, bad = shop.score([[*asked(n), {"role": "assistant", "content": text}] for text in both])
        right += good > bad
    assert right >= 22
