"""Low-rank adapters: `peft` is the oracle of the arithmetic and of the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llama3.checkpoints.adapter import base_hash, save_adapter
from llama3.checkpoints.peft_adapter import load_adapter
from llama3.checkpoints.weights import save_model
from llama3.config.schema import LoRASection
from llama3.errors import CheckpointError, ConfigError
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.lora import PROJECTIONS, adapter_tensors, adapters, add_lora, merge, without_adapters
from llama3.model.score import score
from llama3.model.transformer import Transformer

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=48, vocab_size=64, tied=True)
BATCH = Batch.of_documents(torch.arange(20) * 7 % 64, [0, 9])


def base(seed: int = 1, config: ModelConfig = CONFIG) -> Transformer:
    return init_weights(Transformer(config), seed)


def trained(section: LoRASection) -> Transformer:
    """A model whose adapters are not zero."""
    model = add_lora(base(), section, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in adapters(model).values():
            for b in layer.lora_B.values():
                b.copy_(torch.empty(b.shape).normal_(0, 0.3, generator=generator))
    return model


def logps(model: Transformer) -> torch.Tensor:
    with torch.no_grad():
        return score(model, BATCH).logps_M


def test_new_adapters_change_nothing_and_alone_are_trained() -> None:
    model = add_lora(base(), LoRASection(rank=4), seed=3)
    assert torch.equal(logps(model), logps(base()))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(names) == 2 * len(PROJECTIONS) * CONFIG.n_layers
    assert all(".lora_" in name for name in names)


def test_gradients_are_those_of_the_merged_matrix() -> None:
    """d loss / d B = (d loss / d W) A' * scale, and likewise for A."""
    model, section = trained(LoRASection(rank=4, alpha=8)), LoRASection(rank=4, alpha=8)
    score(model, BATCH).logps_M.sum().backward()
    plain = trained(section)
    merge(plain)
    score(plain, BATCH).logps_M.sum().backward()
    layer = adapters(model)["layers.1.attention.out"]
    grad_w = plain.get_submodule("layers.1.attention.out").weight.grad
    a, b = layer.lora_A["o_proj"], layer.lora_B["o_proj"]
    torch.testing.assert_close(b.grad, grad_w @ a.T * 2.0, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.grad, b.T @ grad_w * 2.0, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("targets", [PROJECTIONS, ("q_proj", "v_proj"), ("k_proj", "up_proj", "down_proj")])
def test_peft_loads_the_adapter_and_computes_the_same(tmp_path: Path, targets: tuple[str, ...], rslora: bool) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    section = LoRASection(rank=4, alpha=6, rslora=rslora, targets=targets)
    model = trained(section)
    save_model(base(), tmp_path / "base")
    save_adapter(adapter_tensors(model), section, tmp_path / "adapter", base_hash(model))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    tokens = torch.arange(12)[None] * 5 % 64
    with torch.no_grad():
        expected = theirs(tokens).logits[0]
        found = model.logits(model.hidden(Batch.of_documents(tokens[0], [0])))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_an_adapter_written_by_peft_loads(tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    save_model(base(), tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    options = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "gate_proj"], init_lora_weights=False)
    theirs = peft.get_peft_model(theirs, options)
    theirs.save_pretrained(tmp_path / "adapter")
    model = base()
    load_adapter(model, tmp_path / "adapter")
    tokens = torch.arange(12)[None] * 5 % 64
    with torch.no_grad():
        expected = theirs(tokens).logits[0]
        found = model.logits(model.hidden(Batch.of_documents(tokens[0], [0])))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_without_adapters_is_the_base_and_merge_is_the_sum() -> None:
    model = trained(LoRASection(rank=4))
    adapted = logps(model)
    with without_adapters(model):
        assert torch.equal(logps(model), logps(base()))
    assert not torch.allclose(adapted, logps(base()))
    errors = merge(model)
    torch.testing.assert_close(logps(model), adapted, atol=2e-5, rtol=1e-5)
    assert not adapters(model)
    assert all(error.max_abs < 1e-6 and error.change > 0 for error in errors)
    assert model.state_dict().keys() == base().state_dict().keys()


def test_the_base_hash_does_not_see_adapters() -> None:
    assert base_hash(trained(LoRASection(rank=2))) == base_hash(base())
    assert base_hash(base(2)) != base_hash(base())


def test_an_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    section = LoRASection(rank=4)
    model = trained(section)
    save_adapter(adapter_tensors(model), section, tmp_path, base_hash(model))
    other = base(2)
    with pytest.raises(CheckpointError, match="L3-LRA-002"):
        load_adapter(other, tmp_path)
    assert not adapters(other)
    (tmp_path / "llama3.json").unlink()
    wide = base(config=ModelConfig(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=48, vocab_size=64, tied=True))
    with pytest.raises(CheckpointError, match="L3-LRA-009"):
        load_adapter(wide, tmp_path)
    assert not adapters(wide)


def test_bad_adapters_are_named(tmp_path: Path) -> None:
    section = LoRASection(rank=4)
    model = trained(section)
    save_adapter(adapter_tensors(model), section, tmp_path, base_hash(model))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(CheckpointError, match=r"use_dora.*L3-LRA-005"):
        load_adapter(base(), tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="L3-LRA-004"):
        load_adapter(base(), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weights = (tmp_path / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(weights[:100])
    with pytest.raises(CheckpointError, match="L3-LRA-003"):
        load_adapter(base(), tmp_path)


def test_an_unknown_projection_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"w_proj.*L3-LRA-001"):
        add_lora(base(), LoRASection(targets=("w_proj",)), seed=0)
