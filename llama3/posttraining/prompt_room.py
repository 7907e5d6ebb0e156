"""Whether prompts and the user's own rows fit in the model's context, asked as soon as the tokenizer is known: before
anything is trained, not when their turn comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama3.artifacts import Artifact
from llama3.checkpoints.load import read_config
from llama3.config.schema import Config, PreferSection, SFTSection
from llama3.config.slot_types import Slot
from llama3.errors import DataError, LlamaError, Problem
from llama3.model.config import ModelConfig
from llama3.plugins.asking import ODD_RESULT
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec, RewardSpec
from llama3.posttraining.examples import prompt_ids
from llama3.posttraining.finetune import drawing_of, fitting, refuse_long
from llama3.posttraining.room import context_in_the_end
from llama3.posttraining.sampling import NO_ROOM, task_messages
from llama3.tasks.data_kind import MISSING_FIELD, data_kind, data_kind_spec
from llama3.tasks.rewards import CombinedReward, build_rewards
from llama3.tasks.rows import read_rows
from llama3.tasks.user_data import place_of
from llama3.tokenizer import Tokenizer
from llama3.training.asked_algorithm import build_algorithm


def require_prompt_room(config: Config, vocabulary: Artifact, start: Artifact | None, given: Artifact | None) -> None:
    """Raises DataError where no prompt of the rewards, or none of the `given` rows, leaves room for a longest answer,
    and, with file and line, where given rows are longer than the context. `start` is the model that is trained on;
    None: a new one."""
    tokenizer = Tokenizer.load(vocabulary.path)
    if start is None:
        model = ModelConfig.from_section(config.model, tokenizer.vocab_size)
    else:
        model = read_config(start.path)
    context = context_in_the_end(config, model.max_seq_len)
    if given is not None:
        _require_rows(config, given, tokenizer, context)
    elif config.post_training.rounds:
        _require_tasks(config, tokenizer, context)


def _require_tasks(config: Config, tokenizer: Tokenizer, context: int) -> None:
    post = config.post_training
    asking = [slot for slot in post.rewards if _asks(slot)]
    if not asking:
        return
    count = max(post.reject.prompts, post.prefer.prompts)
    tasks = CombinedReward(build_rewards(asking, config.run.device)).tasks("train", count, config.run.seed)
    shortest = min(len(prompt_ids(tokenizer, task_messages(task))) for task in tasks)
    wrong: list[Problem] = []
    for stage, longest in (("reject", post.reject.max_tokens), ("prefer", post.prefer.max_tokens)):
        if shortest + longest > context:
            where = f"post_training.{stage}.max_tokens"
            wrong.append(NO_ROOM.problem(where, count=len(tasks), longest=longest, context=context))
    if wrong:
        raise DataError.of(wrong)


def _asks(slot: Slot) -> bool:
    """Whether a reward has prompts of its own."""
    try:
        spec = discover().spec("rewards", slot.name)
    except LlamaError:
        return False  # told by others
    return isinstance(spec, RewardSpec) and spec.has_tasks


def _require_rows(config: Config, given: Artifact, tokenizer: Tokenizer, context: int) -> None:
    post = config.post_training
    section: SFTSection | PreferSection = post.sft if given.type == "dialogs" else post.prefer
    slot = post.sft.algorithm if given.type == "dialogs" else post.algorithm
    spec = discover().spec("algorithms", slot.name)
    assert isinstance(spec, AlgorithmSpec)
    file = given.path / data_kind_spec(spec.data).file
    if not file.exists():
        return  # told by the stage
    rows, own = list(read_rows(file)), Path(str(post.data))
    with _written_by(given.metrics["kind"], spec.data):
        examples = data_kind(spec.data).examples(tokenizer, rows)
    ids = {id(example): str(row.get("id", "")) for example, row in zip(examples, rows, strict=True)}
    drawing = drawing_of(section, spec, build_algorithm(slot))
    kept = fitting(examples, drawing.max_tokens if drawing else None, context, str(own))
    refuse_long(kept, context, lambda number: place_of(own, ids[id(kept[number])]))


@contextmanager
def _written_by(kind: str, stored: str) -> Iterator[None]:
    """A field that is missing in rows that the user's kind of data wrote is a fault of that plugin."""
    try:
        yield
    except DataError as error:
        if lacks := [problem for problem in error.problems if problem.code == MISSING_FIELD.code]:
            told = f"{lacks[0].where}: {lacks[0].what}"
            raise ODD_RESULT(f"data_kinds.{kind}", method=f"stored[{stored!r}]", fault=told) from error
        raise
