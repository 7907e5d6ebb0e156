"""`Llama`: text in, text out, with the tokenizer, the guard policy and the files on disk."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import chatting
import numpy as np
import pytest
import torch

from llama3.checkpoints.convert import convert
from llama3.checkpoints.quantized import quantize_model, save_quantized
from llama3.checkpoints.weights import save_model
from llama3.errors import ArtifactError, ConfigError, DoesNotFit, GuardBlocked
from llama3.inference import Llama, Sampling
from llama3.inference.llama import find_model, load
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import GuardInput, Span, Turn, Verdict
from llama3.tokenizer import Message, Tokenizer, render

TEXTS = [f"The number {i} has {len(str(i))} digits, naïve ünïcode: ✓ {'ab' * (i % 7)}.\n" for i in range(400)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(TEXTS, 400, num_special=16)
    tokenizer.save(folder)
    config = ModelConfig(32, 2, 4, 2, 64, tokenizer.vocab_size, max_seq_len=192)
    save_model(init_weights(Transformer(config), 3), folder)
    return folder


@pytest.fixture(scope="module")
def llama(folder: Path) -> Llama:
    return load(folder)


def test_generate_continues_text(llama: Llama) -> None:
    prompts = ["The number", "", "naïve ✓"]
    answers = llama.generate(prompts, max_tokens=9, seed=4)
    groups = llama.generate(prompts, max_tokens=9, seed=4, n=3)
    assert answers == [group[0] for group in groups]
    assert all(len(set(group)) > 1 for group in groups)
    ids = [llama.tokenizer.encode(prompt, bos=True) for prompt in prompts]
    completions = llama.engine.generate(ids, Sampling(9, 0.6, 0.9, seed=4, stop_ids=llama.tokenizer.stop_ids))
    stops = llama.tokenizer.stop_ids
    expected = [llama.tokenizer.decode([i for i in completion.ids if i not in stops]) for (completion,) in completions]
    assert answers == expected
    assert llama.generate([], max_tokens=3) == []


def test_one_string_is_one_prompt(llama: Llama) -> None:
    (one,) = llama.generate(["The number"], max_tokens=9, seed=4)
    assert llama.generate("The number", max_tokens=9, seed=4) == one
    assert llama.generate("The number", max_tokens=9, seed=4, n=2)[0] == one
    np.testing.assert_array_equal(llama.logprobs("The number"), llama.logprobs(["The number"])[0])


def test_chat_speaks_the_protocol_and_streams_the_same_text(llama: Llama) -> None:
    messages = [Message("system", "Be brief."), Message("user", "Hello <|eot_id|>")]
    answer = llama.chat(messages, max_tokens=20, seed=1)
    assert answer.role == "assistant"
    assert "".join(llama.stream(messages, max_tokens=20, seed=1)) == answer.content
    prompt = render(llama.tokenizer, messages, generation_prompt=True).ids
    sampling = Sampling(20, 0.6, 0.9, seed=1, stop_ids=llama.tokenizer.stop_ids)
    ids = llama.engine.generate([prompt], sampling)[0][0].ids
    assert answer.content == llama.tokenizer.decode([i for i in ids if i not in llama.tokenizer.stop_ids])
    following = llama.chat([*messages, answer, Message("user", "And?")], max_tokens=5)
    assert following.role == "assistant"


def test_the_context_bounds_a_conversation(llama: Llama) -> None:
    llama.chat([Message("user", "a b " * 10)])
    with pytest.raises(DoesNotFit, match="L3-GEN-006"):
        llama.chat([Message("user", "a b " * 200)])


def test_chat_stops_where_the_models_own_template_ends_an_answer(tmp_path: Path) -> None:
    """The end token is put where an answer without an end has drawn a control token."""
    template = chatting.INSTRUCT.replace("eos_token", "'<|done|>'")
    controls = ["[INST]", "[/INST]", chatting.BOS, chatting.EOS]
    spare = [f"<|spare_{number}|>" for number in range(len(controls), 31)]
    tokenizer = chatting.load(tmp_path / "endless", template, [*controls, *spare, "<|done|>"])
    transformer = init_weights(Transformer(ModelConfig(32, 2, 4, 2, 64, tokenizer.vocab_size, max_seq_len=192)), 3)
    messages = [Message("user", "hello")]
    prompt = render(tokenizer, messages, generation_prompt=True).ids
    drawn = list(Llama(transformer, tokenizer).engine.stream(prompt, Sampling(120, 1.0, 1.0, seed=5)))
    spares = {tokenizer.special_tokens[name]: name for name in spare}
    end = next(id for id in drawn if id in spares)
    names = [*controls, *("<|done|>" if name == spares[end] else name for name in spare)]
    llama = Llama(transformer, chatting.load(tmp_path / "ending", template, names))
    answer = llama.chat(messages, temperature=1.0, top_p=1.0, seed=5)
    assert answer.content == tokenizer.decode(drawn[: drawn.index(end)])
    assert len(drawn[: drawn.index(end)]) > 0


def test_without_bos_a_first_token_has_no_logprob(tmp_path: Path) -> None:
    tokenizer = chatting.load(tmp_path, chatting.CHATML)
    transformer = init_weights(Transformer(ModelConfig(32, 1, 4, 2, 64, tokenizer.vocab_size, max_seq_len=192)), 3)
    llama = Llama(transformer, tokenizer)
    assert not tokenizer.add_bos
    with torch.no_grad():
        alone = score(transformer, Batch.of_documents(tokenizer.encode("hello there"))).logps_M.numpy()
    empty, one, many = llama.logprobs(["", "h", "hello there"])
    assert (len(empty), len(one)) == (0, 0)
    np.testing.assert_allclose(many, alone, atol=1e-5)
    assert [len(found) for found in llama.logprobs(["h", ""])] == [0, 0]


def test_a_stopped_stream_frees_its_blocks(llama: Llama) -> None:
    stream: Iterator[str] = llama.stream([Message("user", "Hello")], temperature=1.0)
    next(stream)
    assert llama.engine.pool.stats()["rows"] == 1
    stream.close()
    assert llama.engine.pool.stats()["rows"] == 0


def test_logprobs_are_those_of_score_whatever_the_grouping(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*TEXTS[:5], "", "✓"]
    expected = []
    for text in texts:
        ids = llama.tokenizer.encode(text, bos=True)
        with torch.no_grad():
            logps = score(llama.transformer, Batch.of_documents(ids)).logps_M.numpy() if len(ids) > 1 else np.zeros(0)
        expected.append(logps)
    for limit in (8192, 40):
        monkeypatch.setattr("llama3.inference.llama.SCORE_TOKENS", limit)
        for found, wanted in zip(llama.logprobs(texts), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
            assert found.dtype == np.float32
    assert llama.logprobs([]) == []


class NoSecrets:
    """A guard that blocks a word."""

    word = "secret"

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def check(self, x: GuardInput) -> Verdict:
        blocked = self.word in x.text
        return Verdict(action="block" if blocked else "allow", reason="it is told" if blocked else "")


def guarded(llama: Llama, stage: str, word: str) -> Llama:
    class Guard(NoSecrets):
        pass

    Guard.word = word
    policy = PolicyEngine({stage: {"guard": "no_secrets"}}, lambda name, options: Guard())
    return Llama(llama.transformer, llama.tokenizer, guard=policy)


def test_the_guard_refuses_prompts(llama: Llama) -> None:
    model = guarded(llama, "input", "secret")
    user = Message("user", "the secret")
    with pytest.raises(GuardBlocked):
        model.generate(["fine", "a secret"], max_tokens=3)
    with pytest.raises(GuardBlocked):
        model.stream([user])
    for earlier in (user, Message("system", "a secret"), Message("ipython", "a secret")):
        with pytest.raises(GuardBlocked):
            model.chat([earlier, Message("assistant", "No."), Message("user", "fine")], max_tokens=3)
    own = [Message("user", "fine"), Message("assistant", "my secret"), Message("user", "fine")]
    assert model.chat(own, max_tokens=3).role == "assistant"
    assert len(model.generate(["fine"], max_tokens=3)) == 1


def test_the_guard_refuses_answers_and_tool_results(llama: Llama) -> None:
    user = Message("user", "Hello")
    said = llama.chat([user], max_tokens=30).content
    model = guarded(llama, "output", said[-5:])
    with pytest.raises(GuardBlocked):
        model.chat([user], max_tokens=30)
    text = llama.generate(["The"], max_tokens=30)[0]
    with pytest.raises(GuardBlocked):
        guarded(llama, "output", text[-5:]).generate(["The"], max_tokens=30)
    with pytest.raises(GuardBlocked):
        guarded(llama, "tool_result", "secret").chat([user, Message("ipython", "secret")], max_tokens=3)


def test_all_parts_of_a_message_are_judged_and_guards_see_the_conversation(llama: Llama) -> None:
    text = Message("user", "Hello you")
    parts = Message("user", [{"type": "text", "text": "Hello"}, {"type": "text", "text": " you"}])
    assert llama.chat([parts], max_tokens=9) == llama.chat([text], max_tokens=9)
    with pytest.raises(GuardBlocked):
        guarded(llama, "input", "o y").chat([parts])

    traces: list[tuple[str, tuple[Turn, ...]]] = []

    class Seeing(NoSecrets):
        async def check(self, x: GuardInput) -> Verdict:
            traces.append((x.stage, x.trace))
            return Verdict(action="allow")

    policy = PolicyEngine({"input": "seeing", "output": "seeing"}, lambda name, options: Seeing())
    answer = Message("assistant", "Hi.")
    Llama(llama.transformer, llama.tokenizer, guard=policy).chat([parts, answer, text], max_tokens=3)
    before = (Turn("user", "Hello you"), Turn("assistant", "Hi."))
    assert traces == [("input", ()), ("input", before), ("output", (*before, Turn("user", "Hello you")))]


def test_a_message_is_judged_once_and_redacted_for_the_model_and_the_reader(llama: Llama) -> None:
    judged: list[str] = []

    class Redacting(NoSecrets):
        async def check(self, x: GuardInput) -> Verdict:
            judged.append(x.text)
            at = x.text.find("4711")
            return Verdict(action="redact", spans=(Span(start=at, end=at + 4),)) if at >= 0 else Verdict(action="allow")

    policy = PolicyEngine({"input": "redacting"}, lambda name, options: Redacting())
    model = Llama(llama.transformer, llama.tokenizer, guard=policy)
    asked = [Message("user", "My code is 4711.")]
    plain = [Message("user", "My code is [redacted].")]
    answer = model.chat(asked, max_tokens=9)
    assert answer == llama.chat(plain, max_tokens=9)
    more = [answer, Message("user", "And now?")]
    assert model.chat([*asked, *more], max_tokens=9) == llama.chat([*plain, *more], max_tokens=9)
    assert judged == ["My code is 4711.", "And now?"]
    assert model.generate(["Say 4711"], max_tokens=5) == llama.generate(["Say [redacted]"], max_tokens=5)


def test_what_is_marked_late_stops_a_stream_and_is_redacted_in_a_whole_answer(
    llama: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(NoSecrets):
        async def check(self, x: GuardInput) -> Verdict:
            return Verdict(action="redact" if len(x.text) > 12 else "allow")

    monkeypatch.setattr("llama3.safety.answers.HOLD_BACK", 4)
    model = Llama(llama.transformer, llama.tokenizer, guard=PolicyEngine({"output": "late"}, lambda *_: Late()))
    assert len(llama.chat("Hi", max_tokens=40).text) > 16
    assert model.chat("Hi", max_tokens=40).text == "[redacted]"
    with pytest.raises(GuardBlocked, match="L3-SAF-021"):
        list(model.chat("Hi", max_tokens=40, stream=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_does_not_exist_is_refused_by_name(folder: Path) -> None:
    assert load(folder, device="auto").transformer.embed.weight.device.type == "cpu"
    with pytest.raises(DoesNotFit, match="CUDA"):
        load(folder, device="cuda")
    with pytest.raises(ConfigError, match="'gpu'"):
        load(folder, device="gpu")


def test_a_quantized_checkpoint_loads_and_answers(llama: Llama, tmp_path: Path) -> None:
    scheme = discover().build("quantization", "int8", {})
    model = copy.deepcopy(llama.transformer)
    quantize_model(model, scheme)
    save_quantized(model, tmp_path, "int8", scheme)
    llama.tokenizer.save(tmp_path)
    loaded = load(tmp_path)
    assert len(loaded.generate(TEXTS[:3], max_tokens=5)) == 3
    (found,), (exact,) = loaded.logprobs(TEXTS[:1]), llama.logprobs(TEXTS[:1])
    np.testing.assert_allclose(found, exact, atol=0.3)
    assert not np.allclose(found, exact, atol=1e-6)


def test_load_takes_a_run_and_says_where_there_is_no_model(folder: Path, tmp_path: Path) -> None:
    assert find_model(folder) == folder
    with pytest.raises(ArtifactError, match="no model is here"):
        load(tmp_path)
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    for name in ("average-2", "average-10"):
        (artifacts / name).symlink_to(folder)
    assert find_model(tmp_path) == artifacts / "average-10"
    for name in ("final", "release"):
        (artifacts / name).symlink_to(folder)
        assert find_model(tmp_path) == artifacts / name
    assert load(tmp_path).config.max_seq_len == 192


def test_metas_directory_answers_alike(llama: Llama, folder: Path, tmp_path: Path) -> None:
    meta = load(convert(folder, tmp_path / "meta", "meta").folder)
    assert meta.generate(["The number"], temperature=0, max_tokens=9) == llama.generate(
        ["The number"], temperature=0, max_tokens=9
    )
