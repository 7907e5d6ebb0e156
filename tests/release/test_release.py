"""quantize, export and release on a real little run: transformers loads the result, facts reach the card."""

import json
import shutil

import chatting
import pytest
import torch
import yaml
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama3.artifacts import Artifact, Checkpoint, CorpusArtifact, Stage, stage
from llama3.artifacts.run import RunDir
from llama3.checkpoints.load import load_model
from llama3.checkpoints.weights import save_model
from llama3.config.schema import Config
from llama3.config.slot_types import Slot
from llama3.errors import CheckpointError, ConfigError, GateFailed, PluginError
from llama3.evaluation.audit import AuditOptions, audit
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.release.cast import CastOptions, cast
from llama3.release.exporter import VerifyReport
from llama3.release.quantize import QuantizeOptions, quantize
from llama3.release.release import ReleaseOptions, release
from llama3.tokenizer import Message, Tokenizer, render, stop_ids
from llama3_plugins.exporters.hf import HfExporter, HfOptions

TEXTS = [f"line {n}: the quick brown fox jumps over the lazy dog; 'tis {n * n} times" for n in range(200)]


class Content(BaseModel):
    text: str


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400, num_special=16)


@stage(output="corpus")
def curate(*, out) -> None:
    (out.path / "documents.txt").write_text("\n".join(TEXTS))
    out.metrics["sources"] = {"stdlib": {"documents": len(TEXTS)}}


@stage(output="report")
def evaluate(checkpoint: Checkpoint, *, out) -> None:
    (out.path / "results.json").write_text("{}")
    out.metrics["pass_rate"] = {"rate": 0.25, "low": 0.2, "high": 0.31, "n": 400}


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    @stage(output="checkpoint")
    def pretrain(corpus: CorpusArtifact, *, out) -> None:
        model = init_weights(Transformer(ModelConfig(32, 2, 4, 2, 48, tokenizer.vocab_size, tied=True)), 0)
        save_model(model, out.path)
        tokenizer.save(out.path)
        (out.path / "llama3.json").write_text("{}")
        out.metrics["steps"] = 7

    with RunDir(tmp_path_factory.mktemp("runs") / "one") as directory:
        base = directory.execute(pretrain, {"corpus": directory.execute(curate, {})})
        final = directory.execute(cast, {"checkpoint": base}, CastOptions.of(Config()), key="final")
        scores = directory.execute(evaluate, {"checkpoint": final})
        options = QuantizeOptions.of(Config(), Slot(name="int8"))
        int8 = directory.execute(quantize, {"checkpoint": final}, options, key="int8")
        yield directory, {"checkpoint": final, "evaluation": scores, "int8": int8}


def make(run, **changes) -> Artifact:
    directory, inputs = run
    options = ReleaseOptions.of(Config()).model_copy(update=changes)
    return directory.execute(release, inputs, options)


@pytest.fixture(scope="module")
def released(run) -> Artifact:
    return make(run)


def test_transformers_loads_the_release_unmodified(run, released, tokenizer) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(released.path, trust_remote_code=False, dtype=torch.float32).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(released.path, trust_remote_code=False)
    messages = [{"role": "user", "content": "the quick brown fox"}]
    ids = their_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == render(tokenizer, [Message("user", "the quick brown fox")], generation_prompt=True).ids.tolist()
    ours = load_model(released.path)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
        got = ours.logits(ours.hidden(Batch.of_documents(ids)))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert theirs.generation_config.eos_token_id == sorted(tokenizer.stop_ids)
    assert theirs.config.bos_token_id == tokenizer.bos_id
    measured = load_model(run[1]["checkpoint"].path).state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, measured[name]), f"{name}: not the weights that were evaluated"


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
def test_final_weights_are_rounded_once_and_released_as_they_are(run, tokenizer, precision, dtype) -> None:
    directory, inputs = run
    (base,) = [parent for parent in inputs["checkpoint"].manifest.parents if parent.role == "checkpoint"]
    exact = directory.current()["pretrain"]
    assert exact.hash == base.hash
    final = directory.execute(cast, {"checkpoint": exact}, CastOptions(precision=precision), key=f"final-{precision}")
    kind = getattr(torch, dtype)
    before, after = load_model(exact.path).state_dict(), load_model(final.path).state_dict()
    for name, value in after.items():
        assert torch.equal(value, before[name].to(kind).float()), name
    assert (final.metrics["rounding"] > 0) == (precision != "fp32")
    assert Tokenizer.load(final.path).hash == tokenizer.hash
    folder = make((directory, {"checkpoint": final}), name=precision).path
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    assert (folder / "model.safetensors").read_bytes() == final.file("model.safetensors").read_bytes()


def test_weights_too_large_for_the_precision_are_refused(run, tmp_path, tokenizer) -> None:
    model = init_weights(Transformer(ModelConfig(32, 1, 4, 2, 48, tokenizer.vocab_size)), 0)
    model.layers["0"].ffn.down.weight.data[3, 5] = 1e5
    save_model(model, tmp_path)
    tokenizer.save(tmp_path)

    def given(out) -> None:
        shutil.copytree(tmp_path, out.path, dirs_exist_ok=True)

    directory, _ = run
    large = directory.execute(Stage("large", given, "checkpoint"), {})
    with pytest.raises(CheckpointError, match=r"down_proj.*too large for float16"):
        directory.execute(cast, {"checkpoint": large}, CastOptions(precision="fp16"), key="too-large")
    assert "too-large" not in directory.current()


def test_a_models_own_template_goes_with_it(tmp_path) -> None:
    """And what ends an answer under it is where `transformers` stops, though no file of the model had said so."""
    model, exported = tmp_path / "model", tmp_path / "exported"
    tokenizer = chatting.load(model, chatting.CHATML)
    config = ModelConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=32, vocab_size=len(tokenizer))
    save_model(init_weights(Transformer(config), 0), model)
    exported.mkdir()
    HfExporter(HfOptions()).export(model, exported)
    theirs = AutoTokenizer.from_pretrained(exported, trust_remote_code=False)
    ids = theirs.apply_chat_template([{"role": "user", "content": "hello"}], add_generation_prompt=True)["input_ids"]
    assert ids == render(tokenizer, [Message("user", "hello")], generation_prompt=True).ids.tolist()
    generation = json.loads((exported / "generation_config.json").read_text())
    ends = {tokenizer.special_tokens["<|im_end|>"], tokenizer.eos_id}
    assert set(generation["eos_token_id"]) == stop_ids(Tokenizer.load(exported)) == ends
    AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=False)


def test_the_release_holds_what_belongs_to_it(released, tokenizer) -> None:
    assert json.loads(released.file("policy.json").read_text()) == Config().safety.policy
    lineage = json.loads(released.file("lineage.json").read_text())
    assert [row["stage"] for row in lineage] == ["cast", "pretrain", "curate"]
    assert lineage[0]["parents"][0]["hash"] == lineage[1]["hash"]
    assert "created" not in released.file("lineage.json").read_text()
    assert Tokenizer.load(released.path).hash == tokenizer.hash
    assert load_model(released.path / "int8").config.dim == 32
    assert Tokenizer.load(released.path / "int8").hash == tokenizer.hash


def test_the_card_states_facts(released) -> None:
    card = released.file("README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0"
    assert head["library_name"] == "transformers"
    parameters = load_model(released.path).config.num_params()
    for fact in (
        f"{parameters:,}",
        "25.0% (20.0% to 31.0%, n = 400)",
        "| sources.stdlib.documents | 200 |",
        "| steps | 7 |",
        "prompt_injection",
        "max_relative_error",
        "1024 log-probabilities",
    ):
        assert fact in card, fact


def evaluated(run, checkpoint: Artifact, right: int, key: str) -> Artifact:
    """An evaluation of `checkpoint` with `right` of 100 tasks solved."""

    @stage(output="report")
    def evaluate(checkpoint: Checkpoint, *, options: Content, out) -> None:
        rows = [{"suite": "tasks", "id": str(i), "prompt": "p", "score": float(i < right)} for i in range(100)]
        (out.path / "results.json").write_text(json.dumps({"tasks": {"better": "higher"}}))
        (out.path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (out.path / "conditions.json").write_text("{}")

    return run.execute(evaluate, {"checkpoint": checkpoint}, Content(text=f"{right}"), key=key)


def audited(run, checkpoint: Artifact, right: int) -> Artifact:
    """An audit of `checkpoint` against one that solved half of the tasks."""
    inputs = {
        "before": evaluated(run, checkpoint, 50, "before"),
        "after": evaluated(run, checkpoint, right, "after"),
    }
    options = AuditOptions(suites=["tasks"], margin=0.1, relative_margin=0.05, margins={}, must_improve=[], seed=1)
    return run.execute(audit, inputs, options)


def test_a_passed_audit_is_on_the_card(run) -> None:
    directory, inputs = run
    card = (
        make((directory, {**inputs, "audit": audited(directory, inputs["checkpoint"], 60)})).path / "README.md"
    ).read_text()
    assert "## Regression audit" in card
    assert "| tasks | 50.0 %" in card
    assert "passed |" in card
    assert "**audit**" not in card


def test_nothing_is_released_without_a_passed_audit(run) -> None:
    directory, inputs = run
    lost = audited(directory, inputs["checkpoint"], 20)
    other = audited(directory, inputs["int8"], 60)
    before = sorted(directory.artifacts.glob("release-*"))
    for found, what in ((lost, "L3-AUD-004"), (other, "L3-AUD-002"), (inputs["evaluation"], "L3-AUD-001")):
        with pytest.raises(GateFailed, match=what):
            make((directory, {**inputs, "audit": found}))
    assert sorted(directory.artifacts.glob("release-*")) == before


def test_nothing_is_released_that_learnt_held_out_tasks(run) -> None:
    directory, inputs = run

    def search(out):
        leak = {"id": "arithmetic.add-0", "prompt": "What is 1 plus 2?"}
        out.metrics |= {"text": {}, "preferences": {"n": 1, "contaminated": 1, "leaks": [leak]}}
        (out.path / "results.json").write_text("{}")

    found = directory.execute(Stage("contamination", search, "report"), {})
    with pytest.raises(
        GateFailed, match=r"preferences: arithmetic\.add-0: this held-out task is among the training data"
    ):
        make((directory, {**inputs, "contamination": found}))


def test_the_card_survives_hostile_names(run) -> None:
    card = make(run, name='a "b"\n---\nlicense: mit | c').file("README.md").read_text()
    assert yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))["license"] == "apache-2.0"


def test_equal_runs_release_equal_bytes(run, released, tmp_path) -> None:
    from llama3.artifacts import StageOutput

    _, inputs = run
    out = StageOutput(tmp_path / "again", tmp_path / "scratch")
    out.path.mkdir()
    release(**inputs, options=ReleaseOptions.of(Config()), out=out)
    again = {path.relative_to(out.path).as_posix() for path in out.path.rglob("*") if path.is_file()}
    assert again == {entry.path for entry in released.manifest.files}
    for name in again:
        assert (out.path / name).read_bytes() == released.file(name).read_bytes(), name


def test_quantization_reports_every_matrix(run) -> None:
    _, inputs = run
    facts = json.loads(inputs["int8"].file("quantization.json").read_text())
    assert len(facts["tensors"]) == facts["matrices"] == 8
    assert inputs["int8"].metrics["max_relative_error"] == max(row["relative"] for row in facts["tensors"])
    assert json.loads(inputs["int8"].file("llama3.json").read_text())["scheme"] == "int8"
    assert facts["bytes"] < 0.7 * facts["bytes_bf16"]


def test_a_quantized_checkpoint_is_neither_quantized_again_nor_exported(run) -> None:
    directory, inputs = run
    with pytest.raises(CheckpointError, match="L3-REL-002"):
        directory.execute(
            quantize, {"checkpoint": inputs["int8"]}, QuantizeOptions(scheme=Slot(name="int8")), key="twice"
        )
    with pytest.raises(CheckpointError, match="L3-EXP-001"):
        directory.execute(release, {"checkpoint": inputs["int8"]}, ReleaseOptions.of(Config()), key="wrong")
    assert not (directory.artifacts / "wrong").exists()


def test_an_unsupported_device_is_refused_before_weights_load(run, monkeypatch) -> None:
    from llama3.errors import Problem
    from llama3_plugins.quantization.int8 import Int8

    monkeypatch.setattr(Int8, "supports", lambda self, device: [Problem("L3-QNT-009", device, "cannot run here")])
    monkeypatch.setattr("llama3.release.quantize.load_model", lambda *_, **__: pytest.fail("weights were read"))
    directory, inputs = run
    with pytest.raises(PluginError, match="cannot run here"):
        directory.execute(
            quantize, {"checkpoint": inputs["checkpoint"]}, QuantizeOptions(scheme=Slot(name="int8"), device="cuda")
        )


def test_an_export_that_changes_the_model_is_not_released(run, monkeypatch) -> None:
    from llama3_plugins.exporters.hf import HfExporter

    monkeypatch.setattr(HfExporter, "verify", lambda self, folder: VerifyReport(0.5, 1e-3, 10))
    with pytest.raises(GateFailed, match="L3-REL-004"):
        make(run, name="broken")


def test_a_damaged_export_fails_its_probe(released, tmp_path) -> None:
    exporter = discover().build("exporters", "hf")
    exporter.export(released.path, tmp_path)
    assert exporter.verify(tmp_path).passed
    model = load_model(tmp_path)
    model.layers["0"].ffn.down.weight.data *= 1.5
    save_model(model, tmp_path)
    assert not exporter.verify(tmp_path).passed
    (tmp_path / "probe.safetensors").unlink()
    with pytest.raises(CheckpointError, match="L3-REL-001"):
        exporter.verify(tmp_path)


def test_a_foreign_tokenizer_is_refused(released, tmp_path) -> None:
    exporter = discover().build("exporters", "hf")
    small = init_weights(Transformer(ModelConfig(32, 1, 4, 2, 48, 300)), 0)
    save_model(small, tmp_path / "small")
    Tokenizer.load(released.path).save(tmp_path / "small")
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="L3-EXP-002"):
        exporter.export(tmp_path / "small", tmp_path / "out")


def test_two_exports_of_one_name_are_refused(run) -> None:
    with pytest.raises(ConfigError, match="L3-REL-003"):
        make(run, exports=[Slot(name="hf"), Slot(name="hf"), Slot(name="hf")])
