"""Sharing common beginnings changes no output and no gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from llama3.model import share as share_module
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import score
from llama3.model.share import share
from llama3.model.transformer import Transformer

CONFIG = ModelConfig(24, 2, 4, 2, 32, 13)
WANT = frozenset({"logps", "entropy", "values", "score"})


@st.composite
def forests(draw: st.DrawFn) -> Batch:
    """Trees of up to four segments over two tokens, so that many begin alike, with any targets."""

    def segment(parent: int) -> Segment:
        tokens = draw(st.lists(st.integers(1, 2), min_size=1, max_size=6))
        first = [False] if parent < 0 else [draw(st.booleans())]
        return Segment(tokens, parent, first + [draw(st.booleans()) for _ in tokens[1:]])

    trees = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(1, 4))
        trees.append(Tree([segment(draw(st.integers(0, i - 1)) if i else -1) for i in range(count)]))
    return Batch.of_trees(trees)


def path(batch: Batch, token: int) -> list[int]:
    """The tokens from the root to this one."""
    segment = int(batch.segment_T[token])
    tokens = batch.tokens_T[batch.starts_S1[segment] : token + 1].tolist()
    while (segment := int(batch.parents_S[segment])) >= 0:
        tokens = batch.tokens_T[batch.starts_S1[segment] : batch.starts_S1[segment + 1]].tolist() + tokens
    return tokens


@settings(max_examples=100)
@given(batch=forests(), worth=st.sampled_from([1, 3, 16]))
def test_every_token_that_is_read_has_its_path(batch: Batch, worth: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(share_module, "WORTH_A_SEGMENT", worth)
        patch.setattr(share_module, "WORTH_A_FOREST", batch.num_tokens)
        forest, place_N = share(batch, batch.source_M)
    assert forest.num_tokens <= batch.num_tokens
    for old, new in zip(batch.source_M.tolist(), place_N.tolist(), strict=True):
        assert path(batch, old) == path(forest, new)
    if worth == 1 and batch.num_targets and forest is not batch:
        every = [tuple(path(forest, token)) for token in range(forest.num_tokens)]
        assert len(set(every)) == len(every), "a path is computed twice"


@settings(max_examples=25)
@given(batch=forests())
def test_outputs_and_gradients_equal_those_of_the_whole_batch(batch: Batch) -> None:
    def run(worth_a_forest: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(share_module, "WORTH_A_SEGMENT", 1)
            patch.setattr(share_module, "WORTH_A_FOREST", worth_a_forest)
            scored = score(model, batch, WANT)
        outputs = [scored.logps_M, scored.entropy_M, scored.values_M, scored.score_S]
        weights = torch.Generator().manual_seed(1)
        loss = sum(((x * torch.rand(x.shape, generator=weights)).sum() for x in outputs), torch.zeros(()))
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return outputs, [g for g in gradients if g is not None]

    model = init_weights(Transformer(CONFIG, value_head=True, score_head=True), 0).double()
    for got, expected in zip(run(batch.num_tokens), run(1e-9), strict=True):
        for x, y in zip(got, expected, strict=True):
            # Log-probabilities are sums in float32, which rounds by up to 3e-6 here.
            assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_a_long_common_beginning_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    system = rng.integers(0, 97, 40).tolist()
    trees = [Tree([Segment(system + rng.integers(0, 97, 9).tolist(), -1, [False] * 45 + [True] * 4)]) for _ in range(8)]
    batch = Batch.of_trees(trees)
    seen = []
    model = init_weights(Transformer(ModelConfig(32, 2, 4, 2, 48, 97)), 0)
    run = model.forward
    monkeypatch.setattr(model, "forward", lambda forest, *rest: seen.append(forest.num_tokens) or run(forest, *rest))
    score(model, batch)
    assert seen == [40 + 8 * 8]  # the last token of each predicts nothing


def test_a_batch_with_little_in_common_stays_as_it_is() -> None:
    documents = Batch.of_documents(np.arange(200) % 50, [0, 90, 130])
    forest, place_N = share(documents, documents.source_M)
    assert forest is documents
    assert torch.equal(place_N, documents.source_M)
    nothing = Batch.of_trees([Tree([Segment([1, 2, 3])])])
    assert share(nothing, nothing.source_M)[0] is nothing
