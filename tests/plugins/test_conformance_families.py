"""The author kit of the other families: built-ins pass it, and plugins with a planted fault do not."""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from llama3.checkpoints.weights import save_model
from llama3.evaluation.evaluator import Result
from llama3.plugins import RewardSpec
from llama3.release.exporter import VerifyReport
from llama3.tasks import Custom, Task
from llama3.testing import (
    EvaluatorConformance,
    ExporterConformance,
    FilterConformance,
    LoggerConformance,
    ParallelConformance,
    RewardConformance,
    SourceConformance,
)
from llama3.testing.toy_texts import sentences
from llama3.testing.toys import toy_model, toy_tokenizer
from llama3_plugins.exporters.hf import HfExporter, HfOptions
from llama3_plugins.filters.gopher import Gopher, GopherOptions
from llama3_plugins.loggers.jsonl import JsonlLogger
from llama3_plugins.sources.files import FilesOptions, FilesSource


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """What built-in plugins with required options are pointed at."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "notes").mkdir()
    for number in range(3):
        (folder / "notes" / f"{number}.txt").write_text(sentences(3, number))
    (folder / "notes" / "bad.txt").write_bytes(b"\xff\xfe\x00")
    rows = [{"text": sentences(3, number)} for number in range(3)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "not JSON\n")
    tasks = [{"prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in range(40)]
    (folder / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in tasks))
    rows = [{"prompt": row["prompt"], "completion": row["answer"]} for row in tasks]
    (folder / "own.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    model = toy_model()
    model.value_head = None
    config = replace(model.config, vocab_size=toy_tokenizer().vocab_size)
    model = type(model)(config, score_head=True)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.1)
    save_model(model, folder / "scorer")
    toy_tokenizer().save(folder / "scorer")
    TestFiles.options = {"path": str(folder / "notes")}
    TestJsonl.options = {"path": str(folder / "rows.jsonl")}
    TestJsonlTasks.options = {"path": str(folder / "tasks.jsonl")}
    TestRewardModel.options = {"path": str(folder / "scorer")}
    TestAnswerBits.options = {"path": str(folder / "own.jsonl")}
    rows = [{"prompt": row["prompt"], "chosen": row["answer"], "rejected": "none"} for row in tasks]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    TestPreferenceAccuracy.options = {"path": str(folder / "pairs.jsonl")}


class TestVerifiable(RewardConformance):
    plugin = "verifiable"


class TestJsonlTasks(RewardConformance):
    plugin = "jsonl_tasks"


class TestHumanEval(RewardConformance):
    """It has nothing to train on."""

    plugin = "human_eval"


class TestReasoningGym(RewardConformance):
    plugin = "reasoning_gym"
    options: ClassVar = {"families": ["gcd"]}


class TestRewardModel(RewardConformance):
    plugin = "reward_model"


class TestGopher(FilterConformance):
    plugin = "gopher"


class TestFiles(SourceConformance):
    plugin = "files"


class TestJsonl(SourceConformance):
    plugin = "jsonl"


class TestRecall(SourceConformance):
    plugin = "recall"
    options: ClassVar = {"documents": 3, "lines": 10}


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestAoti(ExporterConformance):
    plugin = "aoti"


class TestCompressedTensors(ExporterConformance):
    plugin = "compressed_tensors"


class TestFbgemmFp8(ExporterConformance):
    plugin = "fbgemm_fp8"


class TestGguf(ExporterConformance):
    plugin = "gguf"


class TestHf(ExporterConformance):
    plugin = "hf"


class TestOnnx(ExporterConformance):
    plugin = "onnx"


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT-RTX is not installed (the extra tensorrt-rtx)",
)
class TestTensorRTRTX(ExporterConformance):
    plugin = "tensorrt_rtx"
    options: ClassVar = {"targets": ["SM80"], "max_tokens": 32}


class TestJsonlLogger(LoggerConformance):
    plugin = "jsonl"


class TestConsole(LoggerConformance):
    plugin = "console"


class TestTensorBoard(LoggerConformance):
    plugin = "tensorboard"


class TestFsdp(ParallelConformance):
    plugin = "fsdp"


class TestTensorParallel(ParallelConformance):
    plugin = "tensor"


class TestAllGather(ParallelConformance):
    plugin = "all_gather"


class TestPipeline(ParallelConformance):
    plugin = "pipeline"


class TestSingle(ParallelConformance):
    plugin = "single"


@pytest.mark.skipif(importlib.util.find_spec("torchft") is None, reason="torchft is not installed (the extra torchft)")
class TestTorchft(ParallelConformance):
    """Of one process, which needs no others; tests/training/test_torchft.py has several."""

    plugin = "torchft"


class TestAnswerBits(EvaluatorConformance):
    plugin = "answer_bits"


class TestBitsPerByte(EvaluatorConformance):
    plugin = "bits_per_byte"


class TestHarmless(EvaluatorConformance):
    plugin = "harmless"


class TestInstructionFormat(EvaluatorConformance):
    plugin = "instruction_format"


class TestMultipleChoice(EvaluatorConformance):
    plugin = "multiple_choice"


class TestNeedle(EvaluatorConformance):
    plugin = "needle"
    options: ClassVar = {"steps": 1, "depths": 6, "digits": 1, "sentence": "{key} {value}"}


class TestPassAtK(EvaluatorConformance):
    plugin = "pass_at_k"
    options: ClassVar = {"samples": 2, "k": [1]}


class TestPassRate(EvaluatorConformance):
    plugin = "pass_rate"


class TestPreferenceAccuracy(EvaluatorConformance):
    plugin = "preference_accuracy"


class TestRefusals(EvaluatorConformance):
    plugin = "refusals"


# Planted faults -------------------------------------------------------------------------------------------------------


def assert_found(monkeypatch, kit: type, faulty, check: str, match: str = "", **changes) -> None:
    """The sound plugin passes the check, the faulty one does not."""
    getattr(kit(), f"test_{check}")()
    monkeypatch.setattr(kit, "build", lambda self: faulty)
    for name, value in changes.items():
        monkeypatch.setattr(kit, name, value)
    with pytest.raises((AssertionError, KeyError, TypeError, ValueError), match=match):
        getattr(kit(), f"test_{check}")()


class Answers:
    """A reward that says what `how(answers)` does."""

    def __init__(self, how):
        self.how = how

    def score(self, prompts, answers, examples):
        return self.how(prompts, answers, examples)


class TestLength(RewardConformance):
    """A sound reward without tasks, into which each test plants one fault."""

    plugin = "length"
    spec = RewardSpec(name="length", factory="a:B", has_tasks=False)
    test_listing_and_checking_options_needs_no_torch = test_options_survive_yaml = None

    def build(self):
        return Answers(lambda prompts, answers, examples: [1 / (1 + len(a)) for a in answers])


def mean_of_group(prompts, answers, examples):
    return [len(a) - sum(map(len, answers)) / len(answers) for a in answers]


def changes_rows(prompts, answers, examples):
    for example in examples:
        example["seen"] = True
    return [0.5] * len(answers)


REWARDS = {
    "returns nothing": (lambda p, a, e: None, "every_answer_gets_a_number_or_none", "NoneType"),
    "one for all": (lambda p, a, e: 1.0, "every_answer_gets_a_number_or_none", "float"),
    "too few": (lambda p, a, e: [1.0], "every_answer_gets_a_number_or_none", "scores for"),
    "texts": (lambda p, a, e: ["good"] * len(a), "every_answer_gets_a_number_or_none", "neither"),
    "infinite": (lambda p, a, e: [float("inf")] * len(a), "every_answer_gets_a_number_or_none", "too large"),
    "huge": (lambda p, a, e: [10**400] * len(a), "every_answer_gets_a_number_or_none", "too large"),
    "a generator": (lambda p, a, e: (1.0 for _ in a), "every_answer_gets_a_number_or_none", "generator"),
    "all None": (lambda p, a, e: [None] * len(a), "something_can_be_scored", "no answer got a score"),
    "all NaN": (lambda p, a, e: [float("nan")] * len(a), "something_can_be_scored", "no answer got a score"),
    "a column that is not there": (lambda p, a, e: [e["length"] for e in e], "something_can_be_scored", "length"),
    "one too many": (lambda p, a, e: [1.0] * (len(a) or 1), "no_answers_get_no_scores", ""),
    "the others count": (mean_of_group, "a_score_does_not_depend_on_the_other_answers", "one by one"),
    "a new number each time": (
        lambda p, a, e: [random.random() for _ in a], "a_score_does_not_depend_on_the_other_answers", "one by one"
    ),
    "writes into rows": (changes_rows, "what_it_is_given_stays_as_it_is", "were changed"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REWARDS)
def test_a_fault_of_a_reward_is_found(fault, monkeypatch):
    how, check, match = REWARDS[fault]
    assert_found(monkeypatch, TestLength, Answers(how), check, match)


def test_a_reward_that_reads_columns_names_rows(monkeypatch):
    monkeypatch.setattr(TestLength, "build", lambda self: Answers(lambda p, a, e: [e.get("length") for e in e]))
    with pytest.raises(AssertionError, match="examples"):
        TestLength().test_something_can_be_scored()
    monkeypatch.setattr(TestLength, "examples", [{"prompt": "p", "length": 3.0}])
    TestLength().test_something_can_be_scored()


class Sums:
    """Tasks of sums."""

    splits: ClassVar = {"train": 0, "held_out": 100}
    drawn = 0

    def tasks(self, split, count, seed):
        first = self.splits[split] + (self.drawn and random.randrange(10**6))
        return [Task(f"{first + n}", "f", f"{first + n}+1", f"{first + n + 1}", Custom("r", {})) for n in range(count)]

    def score(self, prompts, answers, examples):
        right = [str(int(prompt.split("+")[0]) + 1) if "+1" in prompt else None for prompt in prompts]
        return [None if r is None else float(r == a) for r, a in zip(right, answers, strict=True)]


class TestSums(TestLength):
    """A sound reward with tasks."""

    spec = RewardSpec(name="sums", factory="a:B")

    def build(self):
        return Sums()


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ({"splits": {"train": 0, "held_out": 3}}, "no_task_is_both_trained_on_and_held_out"),
        ({"score": lambda self, p, a, e: [float(x == "no idea") for x in a]}, "the_worked_answer_is_the_best"),
        ({"drawn": 1}, "tasks_are_distinct_and_the_same_again"),
    ],
    ids=["splits overlap", "the worked answer is wrong", "other tasks each time"],
)  # fmt: skip
def test_a_fault_of_a_reward_with_tasks_is_found(fault, check, monkeypatch):
    assert_found(monkeypatch, TestSums, type("Faulty", (Sums,), fault)(), check)


def test_hidden_tasks_are_found(monkeypatch):
    spec = RewardSpec(name="sums", factory="a:B", has_tasks=False)
    assert_found(monkeypatch, TestSums, Sums(), "the_spec_does_not_hide_its_tasks", spec=spec)


class Undeclared(Gopher):
    def __init__(self, options):
        super().__init__(options)
        self.features = self.features - {"words"}


class Unknown(Gopher):
    features = frozenset({"beauty"})

    def __init__(self):
        super().__init__(GopherOptions())
        self.features = self.features | {"beauty"}


class Relative(Gopher):
    """Keeps what is better than the mean of its batch."""

    def judge(self, batch):
        judged = super().judge(batch)
        keep_D = judged.score_D <= judged.score_D.mean()
        return replace(judged, keep_D=keep_D, reason_D=["" if keep else "worse" for keep in keep_D])


class NoReason(Gopher):
    def judge(self, batch):
        return replace(super().judge(batch), reason_D=[""] * len(batch))


class Infinite(Gopher):
    def judge(self, batch):
        judged = super().judge(batch)
        return replace(judged, score_D=np.where(judged.keep_D, judged.score_D, np.inf))


class NeedsOne(Gopher):
    def judge(self, batch):
        batch.texts[0]
        return super().judge(batch)


@pytest.mark.parametrize(
    ("faulty", "check"),
    [
        (Undeclared(GopherOptions()), "every_document_is_judged"),
        (Unknown(), "it_declares_statistics_that_exist"),
        (Relative(GopherOptions()), "a_judgement_does_not_depend_on_the_other_documents"),
        (NoReason(GopherOptions()), "reasons_belong_to_what_is_left_out"),
        (Infinite(GopherOptions()), "every_document_is_judged"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Gopher) else value,
)
def test_a_fault_of_a_filter_is_found(faulty, check, monkeypatch):
    assert_found(monkeypatch, TestGopher, faulty, check)


def test_a_filter_that_needs_a_document_is_found(monkeypatch):
    monkeypatch.setattr(TestGopher, "build", lambda self: NeedsOne(GopherOptions()))
    with pytest.raises(IndexError):
        TestGopher().test_no_documents_are_a_batch_too()


class Shuffled(FilesSource):
    def shards(self):
        found = super().shards()
        return [replace(found[0], part=random.randrange(10**6))]


class Once(FilesSource):
    """Its second reading gives nothing."""

    done = False

    def read(self, shard):
        if not Once.done:
            Once.done = True
            yield from super().read(shard)


class OtherLabel(FilesSource):
    def read(self, shard):
        for batch in super().read(shard):
            place = batch.records.schema.get_field_index("source")
            names = batch.records.column("source").cast("string").to_pylist()
            column = type(batch).of(["x"] * len(names), source="other", urls=names).records.column("source")
            yield replace(batch, records=batch.records.set_column(place, "source", column))


class NoUrl(FilesSource):
    def read(self, shard):
        for batch in super().read(shard):
            yield replace(batch, records=batch.records.drop_columns(["url"]))


@pytest.mark.parametrize(
    ("faulty", "check"),
    [
        (Shuffled, "it_has_shards_and_the_same_again"),
        (Once, "a_shard_gives_the_same_documents_again_in_any_order"),
        (OtherLabel, "it_gives_documents_with_their_labels"),
        (NoUrl, "documents_have_the_columns_that_curation_reads"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_fault_of_a_source_is_found(faulty, check, monkeypatch):
    assert_found(monkeypatch, TestFiles, faulty(FilesOptions(**TestFiles.options)), check)


class Forgets(HfExporter):
    def export(self, checkpoint, folder):
        manifest = super().export(checkpoint, folder)
        return replace(manifest, files=manifest.files[:-1])


class Trusting(HfExporter):
    def verify(self, folder):
        return VerifyReport(difference=0.0, tolerance=1e-3, log_probs=1)


class Moves(HfExporter):
    def export(self, checkpoint, folder):
        manifest = super().export(checkpoint, folder)
        (checkpoint / "llama3.json").unlink()
        return manifest


class Stamped(HfExporter):
    count = 0

    def export(self, checkpoint, folder):
        manifest = super().export(checkpoint, folder)
        Stamped.count += 1
        (folder / "generation_config.json").write_text(f'{{"made": {Stamped.count}}}')
        return manifest


@pytest.mark.parametrize(
    ("faulty", "check"),
    [
        (Forgets, "the_manifest_is_what_was_written"),
        (Trusting, "damage_is_noticed"),
        (Moves, "the_checkpoint_stays_as_it_is"),
        (Stamped, "exporting_twice_gives_the_same_bytes"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_fault_of_an_exporter_is_found(faulty, check, monkeypatch):
    assert_found(monkeypatch, TestHf, faulty(HfOptions()), check)


class Whole(JsonlLogger):
    def log(self, step, metrics):
        json.dumps({name: int(value) for name, value in metrics.items()})


class Adds(JsonlLogger):
    def log(self, step, metrics):
        metrics["step"] = step


class Elsewhere(JsonlLogger):
    def open(self, directory, stage):
        super().open(directory, stage)
        self._directory = Path()


class NeedsLoss(JsonlLogger):
    def log(self, step, metrics):
        metrics["loss"]


@pytest.mark.parametrize(
    ("faulty", "check"),
    [
        (Whole, "it_takes_all_that_training_says"),
        (Adds, "what_it_is_given_stays_as_it_is"),
        (Elsewhere, "files_lie_in_its_directory"),
        (NeedsLoss, "nothing_to_log_is_no_error"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_fault_of_a_logger_is_found(faulty, check, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert_found(monkeypatch, TestJsonlLogger, faulty(), check)


class Measure:
    def __init__(self, how):
        self.how = how

    def run(self, subject, limit, seed):
        return self.how(subject, limit, seed)


def items(count, score=0.5, **more):
    return [{"id": f"item-{n}", "score": score, **more} for n in range(count)]


class TestSound(EvaluatorConformance):
    """A sound evaluator, into which each test plants one fault."""

    plugin = "sound"
    test_listing_and_checking_options_needs_no_torch = test_options_survive_yaml = None

    def build(self):
        return Measure(lambda subject, limit, seed: Result({"mean": 0.5}, items(limit)))


def trains(subject, limit, seed):
    subject.model.transformer.embed.weight.data += 1
    return Result({"mean": 0.5}, items(limit))


EVALUATORS = {
    "measures nothing": (lambda s, n, seed: Result({}, items(n)), "figures_are_plain_data"),
    "NaN": (lambda s, n, seed: Result({"mean": float("nan")}, items(n)), "figures_are_plain_data"),
    "a NumPy number": (lambda s, n, seed: Result({"mean": np.float32(1)}, items(n)), "figures_are_plain_data"),
    "better is a word of its own": (
        lambda s, n, seed: Result({"mean": 1.0}, items(n), better="more"), "figures_are_plain_data"
    ),
    "no ids": (lambda s, n, seed: Result({"mean": 1.0}, [{"score": 1.0}]), "every_item_has_a_name_and_a_score"),
    "one id twice": (lambda s, n, seed: Result({"m": 1.0}, items(1) * 2), "every_item_has_a_name_and_a_score"),
    "a score of None": (lambda s, n, seed: Result({"m": 1.0}, items(n, None)), "every_item_has_a_name_and_a_score"),
    "no weight": (lambda s, n, seed: Result({"m": 1.0}, items(n, weight=0)), "every_item_has_a_name_and_a_score"),
    "by chance": (lambda s, n, seed: Result({"m": random.random()}, items(n)), "the_same_seed_gives_the_same_result"),
    "asks each model other things": (
        lambda s, n, seed: Result({"m": 1.0}, items(1, id=str(float(s.model.transformer.embed.weight.sum())))),
        "another_model_is_asked_the_same",
    ),
    "needs many": (lambda s, n, seed: Result({f"m{n}": 1.0}, items(n)), "one_item_is_enough"),
    "trains on it": (trains, "the_model_stays_as_it_is"),
}  # fmt: skip


@pytest.mark.parametrize("fault", EVALUATORS)
def test_a_fault_of_an_evaluator_is_found(fault, monkeypatch):
    how, check = EVALUATORS[fault]
    assert_found(monkeypatch, TestSound, Measure(how), check)
