"""The engine against generation without a cache, `score` and transformers; and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import pytest
import torch
from engines import CONFIGS, GREEDY, VOCAB, Failing, assert_clean, dense, failure_of, make_model, random_prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from llama3 import _core
from llama3.checkpoints.weights import save_model
from llama3.config.schema import LoRASection
from llama3.errors import ConfigError, DoesNotFit, LlamaError
from llama3.inference import Completion, Engine, FinishReason, Sampling, decoding
from llama3.inference import engine as engine_module
from llama3.inference.engine import throughput_engine
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import empty_model
from llama3.model.lora import adapters, add_lora
from llama3.model.score import score, top
from llama3.model.transformer import Transformer


@pytest.fixture(scope="module")
def model() -> Transformer:
    return make_model()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("num_blocks", "block_size", "max_batch"), [(None, 16, 64), (14, 4, 3), (60, 1, 4)])
def test_greedy_answers_equal_generation_without_a_cache(
    name: str, num_blocks: int | None, block_size: int, max_batch: int
) -> None:
    model = make_model(name)
    engine = Engine(model, num_blocks=num_blocks, block_size=block_size, max_batch=max_batch)
    prompts = random_prompts(9, 40)
    answers = engine.generate(prompts, GREEDY)
    assert [answer.ids for (answer,) in answers] == [dense(model, prompt, 12) for prompt in prompts]
    assert_clean(engine)


def test_greedy_answers_equal_those_of_transformers(model: Transformer, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    save_model(model, tmp_path)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompts = random_prompts(5, 20, seed=3)
    answers = Engine(model).generate(prompts, GREEDY)
    for prompt, (answer,) in zip(prompts, answers, strict=True):
        ids = peer.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert ids[0, len(prompt) :].tolist() == answer.ids


def test_a_cached_prompt_gives_the_same_answer() -> None:
    model = make_model().double()  # so that the order of sums does not show
    engine = Engine(model, block_size=4)
    shared = random_prompts(1, 1)[0] * 30
    prompts = [shared + tail for tail in random_prompts(6, 9, seed=1)]
    cold = [Engine(model, block_size=4).generate([prompt], GREEDY)[0][0] for prompt in prompts]
    together = engine.generate(prompts, GREEDY)
    again = engine.generate(prompts, GREEDY)
    for miss, (first,), (second,) in zip(cold, together, again, strict=True):
        assert miss.ids == first.ids == second.ids
        np.testing.assert_allclose(miss.logps, first.logps, atol=2e-6, rtol=1e-6)
        np.testing.assert_allclose(miss.logps, second.logps, atol=2e-6, rtol=1e-6)
    stats = engine.pool.stats()
    assert stats["hit_tokens"] >= 5 * 28 + sum((len(prompt) - 1) // 4 * 4 for prompt in prompts)
    assert_clean(engine)


def test_forks_share_the_prompt_which_is_computed_once(model: Transformer) -> None:
    computed = []
    handle = model.embed.register_forward_hook(lambda _module, inputs, _output: computed.append(len(inputs[0])))
    engine = Engine(model)
    prompt = random_prompts(1, 40, seed=5)[0] * 2
    (answers,) = engine.generate([prompt], Sampling(8, n=20, seed=1))
    handle.remove()
    assert computed == [len(prompt), *[20] * 7]
    assert engine.pool.stats()["copies"] == (19 if len(prompt) % 16 else 0)
    assert len({tuple(answer.ids) for answer in answers}) > 10, "forks draw their own tokens"
    assert_clean(engine)


@pytest.mark.parametrize("sampling", [Sampling(10, n=3, seed=7), Sampling(10, temperature=0.7, top_p=0.9, top_k=20)])
def test_an_answer_depends_on_its_prompt_and_seed_only(model: Transformer, sampling: Sampling) -> None:
    prompts = random_prompts(12, 30, seed=2)
    answers = Engine(model).generate(prompts, sampling)
    reversed_answers = Engine(model, max_batch=5, block_size=4).generate(prompts[::-1], sampling)
    alone = [Engine(model).generate([prompt], sampling)[0] for prompt in prompts]
    ids = [[answer.ids for answer in group] for group in answers]
    assert ids == [[answer.ids for answer in group] for group in reversed_answers[::-1]]
    assert ids == [[answer.ids for answer in group] for group in alone]
    other = Engine(model).generate(prompts, Sampling(10, n=3, seed=8))
    assert ids != [[answer.ids for answer in group] for group in other]


@pytest.mark.skipif(not _core.HAS_SIMD, reason="torch's products depend on the number of rows")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_an_answer_has_the_same_bits_alone_and_beside_others(model: Transformer, dtype: torch.dtype | None) -> None:
    """As long as a step has few rows: prompts of a token, and answers of many lengths."""
    prompts = random_prompts(8, 1, seed=8)
    sampling = Sampling(40, seed=4, stop_ids=frozenset({3, 40}))
    together = Engine(model, dtype=dtype).generate(prompts, sampling)
    alone = [Engine(model, dtype=dtype).generate([prompt], sampling)[0] for prompt in prompts]
    assert [(answer.ids, answer.logps) for (answer,) in together] == [(a.ids, a.logps) for (a,) in alone]
    assert len({len(answer.ids) for (answer,) in together}) > 3


def test_more_answers_do_not_change_the_first_ones(model: Transformer) -> None:
    prompts = random_prompts(3, 20)
    few = Engine(model).generate(prompts, Sampling(6, n=2))
    many = Engine(model, max_batch=4).generate(prompts, Sampling(6, n=11))
    assert [[a.ids for a in group] for group in few] == [[a.ids for a in group[:2]] for group in many]


@pytest.mark.parametrize("sampling", [Sampling(9, n=4), Sampling(9, n=2, temperature=0.6, top_p=0.8), GREEDY])
def test_log_probs_are_those_of_score(sampling: Sampling) -> None:
    model = make_model().double()
    prompts = random_prompts(5, 25, seed=4)
    groups = Engine(model).generate(prompts, sampling)
    trees = [
        Tree([Segment(prompt), *[Segment(answer.ids, parent=0, is_target=True) for answer in group]])
        for prompt, group in zip(prompts, groups, strict=True)
    ]
    with torch.no_grad():
        expected = score(model, Batch.of_trees(trees)).logps_M
    found = torch.tensor([logp for group in groups for answer in group for logp in answer.logps])
    torch.testing.assert_close(found, expected.float(), atol=2e-6, rtol=1e-6)


def test_an_answer_ends_with_the_first_stop_token(model: Transformer) -> None:
    prompts = random_prompts(20, 10)
    whole = Engine(model).generate(prompts, Sampling(30, seed=3))
    stops = frozenset({3, 5, 40})
    engine = Engine(model, max_batch=6)
    cut = engine.generate(prompts, Sampling(30, seed=3, stop_ids=stops))
    for (full,), (answer,) in zip(whole, cut, strict=True):
        end = next((at for at, token in enumerate(full.ids) if token in stops), None)
        assert answer.ids == full.ids[: None if end is None else end + 1]
        assert len(answer.logps) == len(answer.ids)
        assert answer.finish_reason == (FinishReason.LENGTH if end is None else FinishReason.STOP)
    assert len({answer.finish_reason for (answer,) in cut}) == 2
    assert_clean(engine)


def test_a_long_prompt_is_computed_in_pieces(model: Transformer) -> None:
    prompts = [*random_prompts(4, 100, seed=6), *random_prompts(4, 5, seed=7)]
    expected = [dense(model, prompt, 12) for prompt in prompts]
    engine = Engine(model, block_size=4, prefill_tokens=7)
    for _ in range(2):
        assert [answer.ids for (answer,) in engine.generate(prompts, GREEDY)] == expected


def test_a_long_prompt_does_not_stall_running_answers(model: Transformer) -> None:
    engine = Engine(model, block_size=4, prefill_tokens=7)
    running = engine.submit([1, 2, 3], Sampling(60, temperature=0))
    engine.step()
    prompt = random_prompts(1, 1)[0] * 90
    long = engine.submit(prompt, GREEDY)
    short = engine.submit([4, 5], GREEDY)
    steps = 0
    while not long.ids(0):
        engine.step()
        steps += 1
        assert len(running.ids(0)) == 1 + steps, "a running answer waited"
    assert steps == -(-len(prompt) // 7)
    assert [engine.wait(request)[0].ids for request in (long, short)] == [dense(model, p, 12) for p in (prompt, [4, 5])]
    assert engine.wait(running)[0].ids == dense(model, [1, 2, 3], 60)
    assert_clean(engine)


@pytest.mark.parametrize("n", [1, 3])
def test_a_prompt_that_is_left_half_computed_spoils_nothing(model: Transformer, n: int) -> None:
    engine = Engine(model, block_size=2, prefill_tokens=6, max_batch=4)
    prompt = random_prompts(1, 1, seed=3)[0] * 40
    left = engine.submit(prompt, replace(GREEDY, n=n))
    for _ in range(3):
        engine.step()
    again = engine.submit(prompt, GREEDY)
    engine.cancel(left)
    assert engine.wait(again)[0].ids == dense(model, prompt, 12)
    assert_clean(engine)


def test_only_requests_of_one_salt_share_prompts(model: Transformer) -> None:
    engine = Engine(model, block_size=4)
    prompt = random_prompts(1, 1)[0] * 30
    hits = []
    for salt in (b"a", b"a", b"b", b""):
        before = engine.pool.stats()["hit_tokens"]
        engine.wait(engine.submit(prompt, GREEDY, salt=salt))
        hits.append(engine.pool.stats()["hit_tokens"] - before)
    assert hits == [0, 28, 0, 0]


def test_a_reader_is_shown_the_states_of_the_whole_prompt(model: Transformer) -> None:
    class Kept:
        def __init__(self) -> None:
            self.parts: list[Tensor] = []

        def read(self, model: Transformer, h_TD: Tensor) -> None:
            self.parts.append(h_TD)

    engine = Engine(model, block_size=4, prefill_tokens=7, max_batch=2)
    prompt = random_prompts(1, 1)[0] * 30
    for _ in range(2):
        kept = Kept()
        assert engine.wait(engine.submit(prompt, replace(GREEDY, n=5), reader=kept))[0].ids == dense(model, prompt, 12)
        assert_close(torch.cat(kept.parts), model.hidden(Batch.of_documents(prompt)).detach())
    assert engine.pool.stats()["cached"] == 0
    assert_clean(engine)


def test_a_constraint_says_what_may_come_and_log_probs_stay_the_models() -> None:
    class Even:
        """Only even tokens, none of them twice."""

        def __init__(self) -> None:
            self.left = np.arange(VOCAB) % 2 == 0

        def allowed(self) -> np.ndarray:
            return self.left

        def push(self, token: int) -> None:
            self.left[token] = False

    model = make_model().double()
    sampling = Sampling(9, n=3, seed=1, top_logps=4)
    engine = Engine(model)
    request = engine.submit([1, 2, 3], sampling, constrain=Even)
    for answer in engine.wait(request):
        assert all(token % 2 == 0 for token in answer.ids)
        assert len(set(answer.ids)) == 9
    for answer in request.answers.values():
        with torch.no_grad():
            batch = Batch.of_documents([1, 2, 3, *answer.ids])
            expected = score(model, batch).logps_M[2:].tolist()
            ids, logps = top(model, batch, 4)
        np.testing.assert_allclose(answer.logps, expected, atol=2e-6, rtol=1e-6)
        assert [[id for id, _ in found] for found in answer.tops] == ids[2:].tolist()
        told = torch.tensor([[logp for _, logp in found] for found in answer.tops])
        assert_close(told, logps[2:].float(), atol=2e-6, rtol=1e-6)


class Faulty:
    """A constraint that fails at its third token, in one of the ways in which one may."""

    def __init__(self, way: str) -> None:
        self.way, self.drawn = way, 0
        if way == "made":
            raise ValueError(way)

    def allowed(self) -> np.ndarray:
        if self.drawn == 2 and self.way == "allowed":
            raise ValueError(self.way)
        mask = np.ones(VOCAB + (self.drawn == 2 and self.way == "shape"), bool)
        mask[:] = self.drawn != 2 or self.way != "nothing"
        return mask.astype(int) if self.drawn == 2 and self.way == "numbers" else mask

    def push(self, token: int) -> None:
        self.drawn += 1
        if self.drawn == 3 and self.way == "push":
            raise ValueError(self.way)


@pytest.mark.parametrize("way", ["made", "allowed", "push", "shape", "nothing", "numbers"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("speculative", ["off", "prompt_lookup"])
def test_a_constraint_that_fails_ends_its_request_alone(model: Transformer, way: str, n: int, speculative: str) -> None:
    engine = Engine(model, block_size=2, max_batch=8, speculative=speculative)  # type: ignore[arg-type]
    prompts = random_prompts(5, 20, seed=4)
    expected = [dense(model, prompt, 12) for prompt in prompts]
    others = [engine.submit(prompt, GREEDY) for prompt in prompts[:3]]
    engine.step()
    held = engine.submit(prompts[3], replace(GREEDY, n=n), constrain=lambda: Faulty(way))
    others.append(engine.submit(prompts[4], GREEDY))
    error = failure_of(lambda: engine.wait(held))
    if way in ("made", "allowed", "push"):
        assert (type(error), str(error)) == (ValueError, way)
    else:
        assert isinstance(error, LlamaError)
        assert error.problems[0].code == "L3-GEN-021"
    assert [len(held.ids(index)) for index in range(n)] == [0 if way == "made" else 2] * n
    assert engine.pool.check() == []
    assert engine.pool.stats()["rows"] == sum(not request.is_over for request in others), "its blocks are free at once"
    ids = [engine.wait(request)[0].ids for request in others]
    assert ids == [expected[index] for index in (0, 1, 2, 4)]
    assert failure_of(lambda: list(engine.tokens(held))) is error
    assert_clean(engine)
    assert engine.wait(engine.submit(prompts[3], GREEDY))[0].ids == expected[3]


@pytest.mark.parametrize("piece", [1, 2])
def test_a_reader_that_fails_ends_its_request_alone(model: Transformer, piece: int) -> None:
    class Failing:
        pieces = 0

        def read(self, model: Transformer, h_TD: Tensor) -> None:
            self.pieces += 1
            if self.pieces == piece:
                raise ValueError("read")

    engine = Engine(model, block_size=4, prefill_tokens=20)
    prompts = [random_prompts(1, 1, seed=seed)[0] * 35 for seed in range(2)]
    other = engine.submit(prompts[0], GREEDY)
    read = engine.submit(prompts[1], replace(GREEDY, n=2), reader=Failing())
    assert str(failure_of(lambda: engine.wait(read))) == "read"
    assert engine.wait(other)[0].ids == dense(model, prompts[0], 12)
    assert_clean(engine)


def test_a_bias_moves_what_is_drawn_and_not_its_log_prob() -> None:
    model = make_model().double()
    (answer,) = Engine(model).generate([[1, 2, 3]], Sampling(5, temperature=0, logit_bias=((7, 100.0), (8, -100.0))))[0]
    assert answer.ids == [7] * 5
    with torch.no_grad():
        expected = score(model, Batch.of_documents([1, 2, 3, *answer.ids])).logps_M[2:].tolist()
    np.testing.assert_allclose(answer.logps, expected, atol=2e-6, rtol=1e-6)
    with pytest.raises(ConfigError, match="logit_bias"):
        Engine(model).submit([1], Sampling(5, logit_bias=((VOCAB, 1.0),)))


@settings(max_examples=15)
@given(data=st.data())
def test_any_load_finishes_and_leaks_nothing(model: Transformer, data: st.DataObject) -> None:
    blocks, size = data.draw(st.integers(12, 40)), data.draw(st.integers(1, 5))
    engine = Engine(model, num_blocks=blocks, block_size=size, max_batch=data.draw(st.integers(1, 6)))
    limit = engine.pool.max_tokens
    sizes = data.draw(st.lists(st.tuples(st.integers(1, limit - 1), st.integers(1, 6), st.integers(1, 5)), max_size=6))
    requests = [
        engine.submit([token % VOCAB for token in range(length)], Sampling(min(room, limit - length), n=n))
        for length, room, n in sizes
    ]
    unwanted = data.draw(st.sampled_from(requests[1:])) if len(requests) > 1 else None
    for request in requests:
        if request is unwanted:
            continue
        for number, _ in enumerate(engine.tokens(request)):
            assert engine.pool.check() == []
            if number == 2 and unwanted is not None:
                engine.cancel(unwanted)
        assert len(engine.wait(request)) == request.sampling.n
    if unwanted is not None:
        engine.cancel(unwanted)
    assert_clean(engine)


def test_what_cannot_fit_is_refused_at_once_and_all_of_it_reported(model: Transformer) -> None:
    engine = Engine(model, num_blocks=6, block_size=4)
    with pytest.raises(DoesNotFit) as error:
        engine.generate([[1], [1] * 16, [1] * 15, [1] * 17], Sampling(6))  # the last token drawn needs no room
    assert [problem.where for problem in error.value.problems] == ["prompt 1", "prompt 3"]
    with pytest.raises(ConfigError) as wrong:
        engine.generate([[], [VOCAB], [-1], [1]], Sampling(1))
    assert [problem.code for problem in wrong.value.problems] == ["L3-GEN-003", "L3-GEN-004", "L3-GEN-004"]
    with pytest.raises(DoesNotFit):
        Engine(model).submit([1] * 120, Sampling(20))
    assert_clean(engine)


@pytest.mark.parametrize("countdown", [1, 2, 5])
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt(), None])
def test_a_failure_in_the_model_loses_no_block_and_spoils_nothing(error: BaseException | None, countdown: int) -> None:
    model = Failing(CONFIGS["grouped"])
    model.load_state_dict(make_model().state_dict())
    engine = Engine(model, num_blocks=40, block_size=4, max_batch=3)
    prompts = random_prompts(7, 15)
    expected = [dense(model, prompt, 12) for prompt in prompts]
    model.error, model.countdown = error, countdown
    with pytest.raises(LlamaError if error is None else type(error)):
        engine.generate(prompts, GREEDY)
    assert_clean(engine)
    assert [answer.ids for (answer,) in engine.generate(prompts, GREEDY)] == expected


def test_a_stream_gives_the_tokens_of_generate_and_can_be_left(model: Transformer) -> None:
    engine = Engine(model)
    sampling = Sampling(15, seed=2)
    (answer,) = engine.generate([[1, 2, 3]], sampling)[0]
    assert list(engine.stream([1, 2, 3], sampling)) == answer.ids
    stream: Iterator[int] = engine.stream([1, 2, 3], sampling)
    assert [next(stream), next(stream)] == answer.ids[:2]
    assert engine.pool.stats()["rows"] == 1
    stream.close()
    assert_clean(engine)


def test_requests_join_a_running_batch(model: Transformer) -> None:
    engine = Engine(model)
    first = engine.submit([1, 2, 3], GREEDY)
    reader = engine.tokens(first)
    drawn = [next(reader) for _ in range(4)]
    second = engine.submit([4, 5], Sampling(3, temperature=0))
    dropped = engine.submit([6, 7], GREEDY)
    drawn.append(next(reader))
    engine.cancel(dropped)
    assert [completion.ids for completion in engine.wait(second)] == [dense(model, [4, 5], 3)]
    assert len(first.ids(0)) == 7, "a step computes for all"
    assert [*drawn, *reader] == engine.wait(first)[0].ids == dense(model, [1, 2, 3], 12)
    with pytest.raises(CancelledError):
        engine.wait(dropped)
    with pytest.raises(CancelledError):
        list(engine.tokens(dropped))
    assert_clean(engine)


def test_reset_cancels_what_is_under_way(model: Transformer) -> None:
    engine = Engine(model, block_size=2)
    reader = engine.stream([1, 2, 3, 4, 5], GREEDY)
    next(reader)
    engine.reset()
    assert_clean(engine)
    assert engine.pool.match_len(np.array([1, 2, 3, 4, 5], np.uint32)) == 0
    with pytest.raises(CancelledError):
        next(reader)


def test_reset_takes_weights_anew_that_were_changed_unseen() -> None:
    model = make_model()
    engine = Engine(model, dtype=torch.bfloat16)
    engine.generate([[1, 2, 3]], GREEDY)
    for parameter in model.parameters():
        parameter.data.neg_()
    engine.reset()
    engine.generate([[1, 2, 3]], GREEDY)
    assert torch.equal(engine.model.embed.weight, model.embed.weight.bfloat16())


def test_cached_prompts_are_forgotten_when_the_weights_change() -> None:
    model = make_model()
    engine = Engine(model, block_size=4)
    prompts = random_prompts(3, 20, seed=9)
    engine.generate(prompts, GREEDY)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    score(model, Batch.of_documents(prompts[0] * 2)).logps_M.sum().backward()
    optimizer.step()
    answers = engine.generate(prompts, GREEDY)
    assert [answer.ids for (answer,) in answers] == [dense(model, prompt, 12) for prompt in prompts]
    model.load_state_dict(make_model(seed=1).state_dict())
    answers = engine.generate(prompts, GREEDY)
    assert [answer.ids for (answer,) in answers] == [dense(model, prompt, 12) for prompt in prompts]


def test_everything_is_computed_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device that holds no numbers: an operation on two devices fails."""
    model = empty_model(CONFIGS["grouped"], ())
    devices = []

    def drawn(logits_BV: Tensor, draws: object, scores_BV: object) -> tuple[Tensor, Tensor]:
        devices.append(logits_BV.device.type)
        return torch.zeros(len(logits_BV), dtype=torch.int64), torch.zeros(len(logits_BV))

    monkeypatch.setattr(decoding, "draw", drawn)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # which that device is not known to
    engine = Engine(model, dtype=torch.bfloat16)
    assert engine.cache.kv.device.type == "meta"
    engine.generate([[1, 2, 3], [4]], Sampling(4, n=2))
    assert devices == ["meta"] * 4


def test_a_model_in_bfloat16_generates() -> None:
    model = make_model().bfloat16()
    engine = Engine(model)
    (answers,) = engine.generate([[1, 2, 3]], Sampling(5, n=3))
    assert engine.cache.kv.dtype == torch.bfloat16
    assert [len(answer.ids) for answer in answers] == [5, 5, 5]


def test_a_copy_in_bfloat16_follows_the_model_and_its_adapters() -> None:
    model = make_model()
    engine = Engine(model, dtype=torch.bfloat16)
    prompts = random_prompts(3, 20, seed=9)

    def answers_of_the_present_weights() -> list[list[Completion]]:
        answers = engine.generate(prompts, GREEDY)
        assert_close(engine.model.state_dict(), make_bfloat16(model).state_dict(), rtol=ONE_BFLOAT16_STEP, atol=0.0)
        assert answers == Engine(engine.model).generate(prompts, GREEDY)
        return answers

    first = answers_of_the_present_weights()
    model.load_state_dict(make_model(seed=1).state_dict())
    assert answers_of_the_present_weights() != first

    add_lora(model, LoRASection(rank=2), seed=0)
    engine = Engine(model, dtype=torch.bfloat16)
    before = answers_of_the_present_weights()
    for layer in adapters(model).values():
        for b in layer.lora_B.values():
            torch.nn.init.normal_(b)
    assert answers_of_the_present_weights() != before
    assert model.embed.weight.dtype == torch.float32


ONE_BFLOAT16_STEP = 2**-7
"""A merged matrix may round to either neighbour: the product before it depends on where its operands lie in memory."""


def make_bfloat16(model: Transformer) -> Transformer:
    """A plain model with the weights that `model` computes with."""
    plain = Transformer(model.config)
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            layer, _, attribute = name.rpartition(".")
            weight.copy_(getattr(model.get_submodule(layer), attribute))
    return plain.bfloat16()


def test_models_with_few_parameters_draw_more_answers_at_once(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = random_prompts(3, longest=8)
    wide = throughput_engine(model, "fp32")
    monkeypatch.setattr(engine_module, "SMALL_MODEL", 1)
    large = throughput_engine(model, "fp32")
    assert wide.max_batch > large.max_batch
    assert [[one.ids for one in row] for row in wide.generate(prompts, GREEDY)] == [
        [one.ids for one in row] for row in large.generate(prompts, GREEDY)
    ]
