"""Smaller copies of a model: which weights stay, and that nothing is lost where nothing is left out."""

from dataclasses import replace

import pytest
import torch

from llama3.checkpoints.prune import PruneOptions, pruned
from llama3.errors import ConfigError
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import score
from llama3.model.transformer import Transformer

CONFIG = ModelConfig(dim=32, n_layers=5, n_heads=4, n_kv_heads=2, ffn_dim=48, vocab_size=64, max_seq_len=64)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def model(request):
    return init_weights(Transformer(replace(CONFIG, tied=request.param)), seed=3)


def logps(model):
    batch = Batch.of_documents(torch.arange(20) % 64, [0])
    with torch.no_grad():
        return score(model, batch, want={"logps"}).logps_M


def test_a_copy_that_leaves_nothing_out_says_the_same(model):
    same = pruned(model, PruneOptions(n_layers=5, dim=32, ffn_dim=48))
    torch.testing.assert_close(logps(same), logps(model))


@torch.no_grad()
def test_weights_that_do_nothing_go_first():
    """A block's hidden units and the channels of the stream that are all 0 change nothing when they go."""
    model = init_weights(Transformer(CONFIG), seed=3)
    silent_F, silent_D = torch.tensor([5, 17, 40]), torch.tensor([2, 30])
    for layer in model.layers.values():
        layer.ffn.down.weight[:, silent_F] = 0
        layer.ffn.down.weight[silent_D] = 0
        layer.attention.out.weight[silent_D] = 0
    model.embed.weight[:, silent_D] = 0
    for name, parameter in model.named_parameters():
        if name.endswith(("qkv.weight", "gate_up.weight")) or name == "lm_head.weight":
            parameter[:, silent_D] = 0
    small = pruned(model, PruneOptions(ffn_dim=45))
    torch.testing.assert_close(logps(small), logps(model))
    narrow = pruned(model, PruneOptions(dim=30))
    kept = [d for d in range(32) if d not in silent_D]
    torch.testing.assert_close(narrow.embed.weight, model.embed.weight[:, kept])


def test_blocks_are_kept_evenly_the_ends_among_them():
    model = init_weights(Transformer(CONFIG), seed=3)
    small = pruned(model, PruneOptions(n_layers=3))
    for new, old in enumerate((0, 2, 4)):
        torch.testing.assert_close(
            small.layers[str(new)].attention.qkv.weight, model.layers[str(old)].attention.qkv.weight
        )


def test_what_is_no_smaller_is_refused(model):
    with pytest.raises(ConfigError) as refused:
        pruned(model, PruneOptions(n_layers=6, dim=64))
    assert [problem.code for problem in refused.value.problems] == ["L3-PRN-001"] * 2
