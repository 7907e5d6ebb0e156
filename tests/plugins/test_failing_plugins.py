"""A third party's plugin that fails, or answers as none can use it, is named, whatever its kind; the program is not
blamed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from model_files import random_model

from llama3.alignment.holding_out import kept_prompts
from llama3.checkpoints.weights import save_model
from llama3.cli import main
from llama3.config.slot_types import Slot
from llama3.data.documents import DocumentBatch, Filter
from llama3.data.judging import asked_of, build_filters, labelled, survey, surveyed, surveying
from llama3.data.opinions import opinion
from llama3.errors import PluginError
from llama3.model.config import ModelConfig
from llama3.plugins.asking import asked
from llama3.plugins.registry import discover
from llama3.tasks.rewards import CombinedReward
from llama3.testing.toys import toy_tokenizer

PLUGIN = '''
import torch
import typer
from pydantic import BaseModel, Field

from llama3.algorithms import Plan, Term
from llama3.errors import ConfigError, DataError, DoesNotFit, Interrupted, Problem
from llama3.evaluators import Result
from llama3.filters import Edits, Judgement
from llama3.plugins import (
    AlgorithmSpec, AttackerSpec, CommandSpec, DataKindSpec, EvaluatorSpec, ExporterSpec, FilterSpec, LoggerSpec,
    ParallelSpec, PresetSpec, QuantizationSpec, RewardSpec, SourceSpec, hookimpl,
)
from llama3_plugins.algorithms.next_token import NextToken
from llama3_plugins.data_kinds.tokens import Tokens
from llama3_plugins.exporters.hf import HfExporter, HfOptions
from llama3_plugins.parallelism.single import Single
from llama3_plugins.quantization.int8 import Int8, Int8Linear
from llama3_plugins.sources.files import FilesOptions, FilesSource


class Odd(BaseModel):
    method: str = Field(description="which method fails")
    gives: str = Field(description="what it gives; nothing: it raises")
    path: str | None = Field(None, description="of a source")
    features: list[str] = Field([], description="of a filter")


def failing(sound, options):
    """A sound plugin, one method of which fails."""
    def fail(*given, **named):
        if not options.gives:
            raise ZeroDivisionError("it was the plugin")
        answer = getattr(type(sound), options.method, None)
        return eval(options.gives, globals() | {"given": given, "sound": lambda: answer(sound, *given, **named)})
    setattr(sound, options.method, eval(options.gives) if options.method == "plan" else fail)
    return sound


class BrokenLinear(Int8Linear):
    def forward(self, x): {}["it was the plugin"]


class OddLinear(Int8Linear):
    def forward(self, x): return None


class SmallLinear(Int8Linear):
    def forward(self, x): return super().forward(x)[..., :1]


def throw(error): raise error
def algorithm(options): return failing(NextToken(), options)
def kind(): return failing(Tokens(), Odd(method="collate", gives="None"))
def source(options): return failing(FilesSource(FilesOptions(path=options.path)), options)
def scheme(options):
    sound = Int8()
    sound.metadata = options.model_dump
    return failing(sound, options)
def exporter(options): return failing(HfExporter(HfOptions()), options)
def attacker(options): return failing(type("Attacker", (), {"styles": ("plain",)})(), options)

def strategy(options): return failing(Single(), options)
class Looking:
    """A filter that surveys, tells languages, and has nothing against a document."""
    measures, stamp, features, private, has_model = ("length",), "1", frozenset(), False, True
    def survey(self, batch): ...
    def surveyed(self): return {}
    def join(self, surveyed): ...
    def measure(self, batch): return {"length": [1.0] * len(batch)}
    def languages(self, batch): return ["en"] * len(batch)
    def judge(self, batch): return Judgement([1.0] * len(batch), [True] * len(batch), [""] * len(batch))
    def edits(self, batch): return Edits.none()


def looking(options): return failing(Looking(), options)
def plain(options):
    asks = 7 if options.method == "features" else frozenset(options.features)
    return failing(type("Plain", (), {"features": asks})(), options)


command = typer.Typer()


@command.command()
def fails():
    {}["it was the plugin"]


OPTIONS = {"options": "acme_odd:Odd"}


@hookimpl
def llama3_algorithms():
    return [AlgorithmSpec(name="odd", factory="acme_odd:algorithm", data="tokens", **OPTIONS),
            AlgorithmSpec(name="odd_data", factory="llama3_plugins.algorithms.next_token:NextToken", data="odd_kind")]


@hookimpl
def llama3_data_kinds():
    return [DataKindSpec(name="odd_kind", factory="acme_odd:kind", artifact="shards", file="plan.json")]


@hookimpl
def llama3_sources():
    return [SourceSpec(name="odd", factory="acme_odd:source", labels=("odd",), **OPTIONS)]


@hookimpl
def llama3_quantization_schemes():
    return [QuantizationSpec(name="odd", factory="acme_odd:scheme", **OPTIONS)]


@hookimpl
def llama3_exporters():
    return [ExporterSpec(name="odd", factory="acme_odd:exporter", **OPTIONS)]


@hookimpl
def llama3_attackers():
    return [AttackerSpec(name="odd", factory="acme_odd:attacker", **OPTIONS)]


@hookimpl
def llama3_parallel_strategies():
    return [ParallelSpec(name="odd", factory="acme_odd:strategy", axis="dp", **OPTIONS)]


@hookimpl
def llama3_evaluators():
    return [EvaluatorSpec(name="odd", factory="acme_odd:plain", keeps_prompts=True, **OPTIONS)]


@hookimpl
def llama3_filters():
    return [FilterSpec(name="odd", factory="acme_odd:plain", **OPTIONS),
            FilterSpec(name="looking", factory="acme_odd:looking", **OPTIONS)]


@hookimpl
def llama3_rewards():
    return [RewardSpec(name="odd", factory="acme_odd:plain", **OPTIONS)]


@hookimpl
def llama3_loggers():
    return [LoggerSpec(name="odd", factory="acme_odd:plain", **OPTIONS)]


@hookimpl
def llama3_presets():
    return [PresetSpec(name="odd", factory="acme_odd_presets")]


@hookimpl
def llama3_commands():
    return [CommandSpec(name="fails", factory="acme_odd:command")]
'''
LATE = """
from llama3.plugins import hookimpl

@hookimpl
def llama3_step_end(stage, step, metrics): raise KeyboardInterrupt
"""
LAST = {"name": "odd", "method": "state_dict", "gives": "None"}
CONFIG = ModelConfig(128, 2, 4, 2, 256, toy_tokenizer().vocab_size, max_seq_len=64)
RUN = {
    "tokenizer": {"vocab_size": 300, "num_special": 16},
    "model": {"preset": "tiny", "dim": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 32,
              "max_seq_len": 64},
    "pretrain": {"steps": 2, "batch": 2, "seq_len": 32, "precision": "fp32", "warmup": 0, "log_every": 1},
    "post_training": {"rounds": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Text, a model, and the run whose first stages all share."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "text").mkdir()
    for n in range(8):
        (folder / "text" / f"{n}.txt").write_text(" ".join(f"word{n * i % 97} is here" for i in range(300)))
    save_model(random_model(CONFIG), folder / "model", dtype=torch.bfloat16)
    toy_tokenizer().save(folder / "model")
    return folder


@pytest.fixture
def called(site, place: Path, capsys) -> Callable[..., tuple[int, str]]:
    """Runs a command beside the plugin: its exit code, and what it says."""
    site.add("acme-odd", PLUGIN, module="acme_odd")
    discover.cache_clear()

    def call(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, words)))
        return int(caught.value.code or 0), capsys.readouterr().err

    yield call
    discover.cache_clear()


def run(place: Path, sections: dict[str, object] | None = None, **pretrain: object) -> list[object]:
    source = {"name": "files", "path": str(place / "text")}
    config = (
        RUN
        | {
            "run": {"name": "odd", "dir": str(place / "runs"), "threads": 1},
            "data": {"sources": [pretrain.pop("source", source)], "filters": [], "held_out": 0.2},
            "pretrain": RUN["pretrain"] | pretrain,
        }
        | (sections or {})
    )
    (place / "odd.yaml").write_text(yaml.safe_dump(config))
    return ["run", place / "odd.yaml"]


@pytest.mark.parametrize(
    ("method", "gives", "said"),
    [
        ("loss", "", "ZeroDivisionError: it was the plugin"),
        ("loss", "None", "it is None"),
        ("loss", "{}", "it has no Term"),
        ("loss", "{'l': given[0].logps_M.sum()}", "l: a Tensor in place of a Term"),
        ("loss", "{'l': Term(given[0].logps_M, per='target')}", "of no dimension"),
        ("loss", "{'l': Term(given[0].logps_M.sum(), per='word')}", "per 'word'"),
        ("loss", "{'l': Term(given[0].logps_M.sum().detach(), per='target')}", "l: without a graph"),
        ("prepare", "", "it was the plugin"),
        ("prepare", "None", "not a Batch"),
        ("metrics", "", "it was the plugin"),
        ("metrics", "[1]", "it is a list"),
        ("state_dict", "{'a': torch.zeros(1)}", "not of JSON values"),
        ("state_dict", "{'a': float('nan')}", "not of JSON values"),
        ("prepare", "sound().with_(per_target={'x': torch.zeros(3)})", "per_target['x']: (3,) where a tensor of"),
        ("prepare", "sound().with_(per_tree={'x': [1]})", "per_tree['x']: <class 'list'> where a tensor of"),
        ("loss", "throw(KeyboardInterrupt())", "KeyboardInterrupt"),
        ("loss", "throw(GeneratorExit())", "GeneratorExit"),
        ("loss", "throw(Interrupted(Problem('ACME-X-001', 'here', 'stopped')))", "Interrupted: here: stopped"),
        ("loss", "throw(DataError('of no rows'))", "TypeError: DataError takes Problems, not 'of no rows'"),
        ("loss", "throw(ConnectionResetError('the teacher is gone'))", "the teacher is gone"),
        ("loss", "throw(type('Strange', (BaseException,), {})('odd'))", "Strange: odd"),
        ("loss", "throw(type('Mute', (ValueError,), {'__str__': lambda self: 1 / 0})())", "Mute"),
        ("plan", "Plan(epochs=0)", "its epochs"),
    ],
)
def test_an_algorithm(called, place: Path, method: str, gives: str, said: str) -> None:
    code, told = called(*run(place, algorithm={"name": "odd", "method": method, "gives": gives}))
    assert (code, "algorithms.odd" in told, f"`{method}`" in told, said in told) == (4, True, True, True), told


@pytest.mark.parametrize(("kind", "code"), [("DataError", 1), ("ConfigError", 2), ("DoesNotFit", 3)])
def test_an_error_that_it_raises_on_purpose(called, place: Path, kind: str, code: int) -> None:
    """It keeps its class, hence the exit code, and says whose it is."""
    gives = f"throw({kind}(Problem('ACME-DAT-001', 'mine.jsonl', 'no rows')))"
    ended, told = called(*run(place, algorithm={"name": "odd", "method": "prepare", "gives": gives}))
    assert ended == code, told
    assert "error: algorithms.odd: `prepare`: mine.jsonl: no rows [ACME-DAT-001]" in told


def test_an_error_of_a_filter_is_a_failure_on_purpose_or_not(called) -> None:
    filters = looking_filter("judge", "throw(DataError(Problem('ACME-DAT-001', 'mine.jsonl', 'no rows')))")
    with pytest.raises(PluginError, match=r"Looking\.judge failed. DataError: mine\.jsonl: no rows") as told:
        opinion(filters, DocumentBatch.of(["a text"], source="s", urls=["u"]))
    assert told.value.exit_code == 4


def test_an_observer_that_raises_what_ctrl_c_does_is_switched_off(called, place: Path, site) -> None:
    site.add("acme-late", LATE, module="acme_late")
    discover.cache_clear()
    code, told = called(*run(place, algorithm=LAST))
    assert "plugin acme-late:main: llama3_step_end failed and is switched off: KeyboardInterrupt" in told
    assert (code, "algorithms.odd" in told) == (4, True), "training went on to what ends it"


def test_a_kind_of_data(called, place: Path) -> None:
    code, told = called(*run(place, algorithm="odd_data"))
    assert (code, "data_kinds.odd_kind: " in told, "`collate`" in told) == (4, True, True), told


@pytest.mark.parametrize("gives", ["", "None", "[1]", "(1 / 0 for _ in range(1))"])
def test_the_shards_of_a_source(called, place: Path, gives: str) -> None:
    source = {"name": "odd", "path": str(place / "text"), "method": "shards", "gives": gives}
    code, told = called(*run(place, source=source))
    assert (code, "source llama3_plugins.sources" in told, "`shards`" in told) == (4, True, True), told


def test_a_signal_that_comes_while_it_works_is_the_users(called, place: Path) -> None:
    gives = "__import__('signal').raise_signal(15)"
    source = {"name": "odd", "path": str(place / "text"), "method": "shards", "gives": gives}
    code, told = called(*run(place, source=source))
    assert (code, "stopped between two stages" in told) == (130, True), told


@pytest.mark.parametrize(
    ("method", "gives", "said"),
    [
        ("targets", "", "it was the plugin"),
        ("targets", "None", "not a list of names"),
        ("supports", "None", "not a list of Problems"),
        ("quantize", "", "it was the plugin"),
        ("quantize", "None", "not the parts"),
        ("quantize", "{}", "quantized other matrices"),
        ("quantize", "{n: {k: v * float('nan') if v.is_floating_point() else v for k, v in p.items()} "
                     "for n, p in sound().items()}", "holds NaN"),
        ("make_linear", "None", "not a module"),
        ("make_linear", "torch.nn.Linear(2, 2)", "its buffers"),
        ("make_linear", "BrokenLinear(**given[0])", "KeyError"),
        ("make_linear", "OddLinear(**given[0])", "it is None"),
        ("make_linear", "SmallLinear(**given[0])", "it makes [1, 1], not [1, 256]"),
        ("dequantize", "sound()[1:]", "of the shape"),
        ("dequantize", "sound() * float('inf')", "holds NaN or infinity"),
        ("metadata", "None", "not a dict"),
    ],
)  # fmt: skip
def test_a_quantization_scheme(called, place: Path, tmp_path: Path, method: str, gives: str, said: str) -> None:
    odd = ["--scheme", "odd", "--set", f"method={method}", "--set", f"gives={json.dumps(gives)}", "--prompts", "0"]
    code, told = called("quantize", place / "model", tmp_path / "out", *odd)
    assert (code, "quantization.odd" in told, said in told) == (4, True, True), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("method", "gives"), [("export", ""), ("export", "None"), ("verify", ""), ("verify", "1")])
def test_an_exporter(called, place: Path, tmp_path: Path, method: str, gives: str) -> None:
    odd = ["--to", "odd", "--set", f"method={method}", "--set", f"gives={json.dumps(gives)}"]
    code, told = called("export", place / "model", tmp_path / "out", *odd)
    assert (code, "exporters.odd: " in told, f"`{method}`" in told) == (4, True, True), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gives", ["", "None", "[1]"])
def test_the_seeds_of_an_attacker(called, place: Path, tmp_path: Path, gives: str) -> None:
    odd = [
        "--attacker",
        "odd",
        "--set",
        "method=seeds",
        "--set",
        f"gives={json.dumps(gives)}",
        "--judge",
        "guard=regex",
    ]
    code, told = called("redteam", place / "model", "--out", tmp_path / "out", *odd)
    assert (code, "attacker odd: " in told, "`seeds`" in told) == (4, True, True), told


@pytest.mark.parametrize(
    ("method", "gives"),
    [("check", ""), ("check", "None"), ("apply", ""), ("runner", ""), ("replicas", ""), ("sum_gradients", "")],
)
def test_a_strategy(called, place: Path, method: str, gives: str) -> None:
    odd = {"parallelism": {"dp": {"name": "odd", "method": method, "gives": gives}}}
    code, told = called(*run(place, odd))
    assert (code, "parallelism.dp: " in told, "single:Single" in told, method in told) == (4, True, True, True), told


@pytest.mark.parametrize("gives", ["", "None", "[1]"])
def test_the_prompts_that_an_evaluator_keeps(called, gives: str) -> None:
    suite = Slot.model_validate({"name": "odd", "method": "kept_prompts", "gives": gives})
    with pytest.raises(PluginError, match=r"evaluators\.odd: .*`kept_prompts`"):
        kept_prompts([suite])


def test_an_evaluator_that_fails_is_told(called, place: Path) -> None:
    suites = {"tasks": [{"name": "bits_per_byte"}, {"name": "odd", "method": "run", "gives": ""}]}
    code, told = called(*run(place, {"evaluation": suites, "quantization": []}))
    assert (code, "suite odd failed: ZeroDivisionError: it was the plugin" in told) == (0, True), told


ROWS = "Result({'pass_rate': 0.5, 'by_family': {'a': 1}}, samples=%s)"
UNSOUND = {
    "None": "returned nothing",
    "{'share': 0.5}": "returned a dict in place of a Result",
    "Result([1])": "returned metrics that are a list",
    "Result({}, {'a': 1})": "returned samples that are a dict",
    "Result({}, [7])": "returned a sample of type int",
    "Result({}, better='up')": "returned better 'up'",
    "Result({'share': float('nan')})": "returned what JSON cannot hold",
    "Result({'share': object()})": "returned what JSON cannot hold",
}
UNPAIRED = {
    "[{'score': 1.0}] * 4": "4 of 4 items have no id",
    "[{'id': 'a', 'score': n} for n in range(4)]": "3 of 4 items have the id of another",
    "[]": "it returned no items",
    "[{'id': str(n), 'score': '1'} for n in range(4)]": "4 of 4 items have no number as score",
}


def test_what_an_evaluator_returns(called, place: Path) -> None:
    """Each is named with its suite and what to mend; the rest of the run goes on."""
    told_of = UNSOUND | {ROWS % rows: why for rows, why in UNPAIRED.items()}
    odd = [{"name": "odd", "suite": f"suite{n}", "method": "run", "gives": gives} for n, gives in enumerate(told_of)]
    suites = {"tasks": [{"name": "bits_per_byte"}, *odd]}
    code, told = called(*run(place, {"evaluation": suites, "quantization": []}))
    assert code == 0, told
    for number, (gives, why) in enumerate(told_of.items()):
        failed = f"suite suite{number} failed: PluginError: evaluators.odd: {why}"
        alone = f"suite suite{number} (evaluators.odd) compares no two models: {why}; an item needs an id"
        assert (failed if gives in UNSOUND else alone) in told, told
    report = json.loads((place / "runs" / "odd" / "report.json").read_text())
    for number, (gives, why) in enumerate(told_of.items()):
        if gives not in UNSOUND:
            assert report["evaluations"]["base"][f"suite{number}"]["unpaired"] == why
            changes = [row["why"] for row in report["changes"] if row["suite"] == f"suite{number}"]
            assert changes
            assert all(why in change for change in changes)


def test_a_proxy_can_be_copied() -> None:
    proxy = asked("algorithms.odd", SimpleNamespace(add=lambda name, method: name + method), {})
    assert copy.copy(proxy).add(name=1, method=2) == 3


def test_an_exporter_cannot_list_what_it_has_not_written(called, place: Path, tmp_path: Path) -> None:
    for file in ("none.bin", "../../../../etc/passwd"):
        gives = f"__import__('dataclasses').replace(sound(), files=({file!r},))"
        odd = ["--to", "odd", "--set", "method=export", "--set", f"gives={json.dumps(gives)}"]
        code, told = called("export", place / "model", tmp_path / "out", *odd)
        assert (code, "exporters.odd: " in told, f"there is no file {file!r}" in told) == (4, True, True), told


def test_a_filter_without_sound_features(called, place: Path) -> None:
    odd = {"filters": [{"name": "odd", "method": "features", "gives": ""}]}
    sources = {"sources": [{"name": "files", "path": str(place / "text")}]}
    code, told = called(*run(place, {"data": sources | odd}))
    assert (code, "filter 'odd'" in told, "`features`" in told) == (4, True, True), told


def test_a_filter_that_asks_for_unknown_features(called, place: Path) -> None:
    odd = {"name": "odd", "method": "none", "gives": "", "features": ["wrods", "xyzzy"]}
    code, told = called("data", "curate", place / "text", "--out", place / "asks", "--set", f"data.filters=[{odd}]")
    words = ("filter 'odd'", "'wrods' (did you mean 'words'?)", "'xyzzy' (see llama3.filters.FEATURES)", "L3-PLG-043")
    assert (code, [word in told for word in words]) == (4, [True] * 4), told
    assert not (place / "asks" / "artifacts").exists(), "refused before work"


def test_a_filter_that_scores_with_nan(called, place: Path) -> None:
    gives = "Judgement([float('nan')] * len(given[0]), [True] * len(given[0]), [''] * len(given[0]))"
    odd = {"name": "odd", "method": "judge", "gives": gives}
    code, told = called("data", "curate", place / "text", "--out", place / "nan", "--set", f"data.filters=[{odd}]")
    words = ("filter 'odd'", "8 of 8 scores are NaN or infinite", "`judge`", "L3-PLG-043")
    assert (code, [word in told for word in words]) == (4, [True] * 4), told


def test_every_method_of_a_filter(called) -> None:
    """Those of filters that look at all documents first, and those that tell languages, as any other."""
    batch = DocumentBatch.of(["a text"], source="s", urls=["u"])
    for method in ("survey", "surveyed", "join", "measure", "languages", "judge", "edits"):
        filters = looking_filter(method, "")
        with pytest.raises(PluginError, match=rf"filter 'looking': .*\.{method} failed.*it was the plugin.*L3-DAT-106"):
            looks_at_all(filters, labelled(filters, batch))
    for gives in ("None", "{'odd': [[1], [2, 3]]}", "{'odd': [object()]}"):
        with pytest.raises(PluginError, match=r"filter 'looking': .*\.surveyed returned .*L3-DAT-286"):
            looks_at_all(looking_filter("surveyed", gives), batch)


def looking_filter(method: str, gives: str) -> dict[str, Filter]:
    return build_filters([Slot.model_validate({"name": "looking", "method": method, "gives": gives})])


def looks_at_all(filters: dict[str, Filter], batch: DocumentBatch) -> None:
    """All that a curation asks of filters, but for languages."""
    looking = surveying(filters)
    survey(looking, batch)
    for name, filter in looking.items():
        asked_of(name, filter, "join", surveyed(name, filter))
    opinion(filters, batch)


@pytest.mark.parametrize("gives", ["", "None", "['x']"])
def test_a_reward(called, place: Path, gives: str) -> None:
    reward = discover().build("rewards", "odd", {"method": "score", "gives": gives})
    with pytest.raises(PluginError, match=r"rewards\.odd: "):
        CombinedReward({"odd": reward}).score(["a"], ["b"], [{}])


@pytest.mark.parametrize("error", ["ZeroDivisionError", "KeyboardInterrupt"])
def test_a_logger_is_switched_off(called, place: Path, error: str) -> None:
    odd = {"name": "odd", "method": "open", "gives": f"throw({error}())"}
    code, told = called(*run(place, {"logging": [odd]}, algorithm=LAST))
    assert f"logger 'odd' failed in open() and is off from now on: {error}" in told
    assert (code, "algorithms.odd" in told) == (4, True), "training went on to what ends it"


def test_a_package_of_presets_is_left_out(called, site) -> None:
    (site.path / "acme_odd_presets.py").write_text("raise ValueError('odd')")
    assert called("config", "list")[0] == 0


def test_a_command(called) -> None:
    code, told = called("fails")
    assert code == 4
    assert "plugin acme-odd: it failed: KeyError. 'it was the plugin'" in told
