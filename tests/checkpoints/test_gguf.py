"""GGUF files: equal to the package `gguf` and to transformers, and refused where they are not what they claim."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import sys

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import CONFIG, logits_of, permuted, quantized_by_gguf, random_model, real_gguf, renamed, write_gguf

from llama3.checkpoints.gguf import GgufWeights
from llama3.checkpoints.gguf_file import read_gguf
from llama3.checkpoints.load import load_model, read_config
from llama3.checkpoints.weights import to_hf
from llama3.errors import CheckpointError, PluginError
from llama3.model.config import RopeScaling
from llama3.model.transformer import rope_frequencies

Q = gguf.GGMLQuantizationType
WRITABLE = [Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.TQ1_0, Q.TQ2_0, Q.MXFP4]
"""Types that `gguf` can both write and read; rows of the last four kinds may be longer than our matrices."""


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    types = {"token_embd": Q.Q8_0, "attn_v": Q.F16, "attn_q": Q.Q5_1, "ffn_down": Q.BF16, "": Q.Q4_0}
    return write_gguf(tmp_path_factory.mktemp("gguf") / "mixed.gguf", model, types)


@pytest.mark.parametrize("kind", [kind for kind in WRITABLE if CONFIG.dim % gguf.GGML_QUANT_SIZES[kind][0] == 0])
@pytest.mark.parametrize("tied", [False, True])
def test_every_type_loads_as_gguf_reads_it(kind, tied, tmp_path):
    config = dataclasses.replace(CONFIG, tied=tied)
    model = random_model(config)
    path = write_gguf(tmp_path / "model.gguf", model, {"": kind})
    assert read_config(path) == config
    loaded = to_hf(config, load_model(path).state_dict())
    for name, tensor in to_hf(config, model.state_dict()).items():
        expected = permuted(name, tensor, config).contiguous().numpy()
        expected = quantized_by_gguf(expected, kind) if expected.ndim > 1 else expected
        found = permuted(name, loaded[name], config)
        assert np.array_equal(found.numpy(), expected), name


def test_rows_are_dequantized_alike_however_many_at_once(path, monkeypatch):
    whole = load_model(path).state_dict()
    monkeypatch.setattr("llama3.checkpoints.gguf.CHUNK_ELEMENTS", 3 * CONFIG.dim)
    assert all(torch.equal(x, whole[name]) for name, x in load_model(path).state_dict().items())


def test_logits_are_those_of_transformers(path):
    from transformers import AutoModelForCausalLM

    tokens = torch.randint(0, CONFIG.vocab_size, (40,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()(tokens[None]).logits[0]
    torch.testing.assert_close(logits_of(load_model(path), tokens), theirs, atol=1e-4, rtol=0)


def test_header_is_that_of_the_package(path):
    reader = gguf.GGUFReader(path)
    found = read_gguf(path)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert found.metadata == theirs
    for tensor in reader.tensors:
        info = found.tensors[tensor.name]
        assert (info.offset, info.bytes, info.type) == (tensor.data_offset, tensor.n_bytes, tensor.tensor_type.name)
        assert info.shape == tuple(tensor.shape[::-1])


def test_stored_precision_is_told(path, model, tmp_path):
    mixed = GgufWeights(path)
    assert mixed.types == {"Q8_0": 1, "F16": 2, "Q5_1": 2, "BF16": 2, "Q4_0": 9, "F32": 5}
    assert mixed.dtype == torch.float32
    plain = GgufWeights(write_gguf(tmp_path / "bf16.gguf", model, {"": Q.BF16}))
    assert plain.dtype == plain.get("lm_head.weight").dtype == torch.bfloat16


@pytest.mark.parametrize("scaling", [RopeScaling(), RopeScaling(factor=32.0), RopeScaling(2.0, 1.0, 4.0, 2048)])
def test_scaled_rope_is_found_in_the_divisors_of_its_frequencies(scaling, tmp_path):
    config = dataclasses.replace(CONFIG, rope_scaling=scaling, rope_theta=500_000.0)
    divisors = rope_frequencies(dataclasses.replace(config, rope_scaling=None)) / rope_frequencies(config)
    path = write_gguf(
        tmp_path / "scaled.gguf",
        random_model(config),
        change=lambda writer: writer.add_tensor("rope_freqs.weight", divisors.numpy()),
    )
    torch.testing.assert_close(rope_frequencies(read_config(path)), rope_frequencies(config), rtol=1e-4, atol=0)
    assert read_config(path).rope_scaling.factor == scaling.factor


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("L3-GGF-013", lambda w: w.add_tensor("rope_freqs.weight", np.linspace(1, 3, 8, dtype=np.float32))),
        ("L3-GGF-011", lambda w: w.add_tensor("rope_freqs.weight", np.ones(5, np.float32))),
        ("L3-GGF-010", lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)),
        ("L3-GGF-010", lambda w: w.add_expert_count(8)),
        ("L3-GGF-010", lambda w: w.add_value_length(8) or w.add_key_length(16)),
        ("L3-GGF-008", lambda w: w.add_uint16("split.count", 3)),
        ("L3-CKP-009", lambda w: w.add_tensor("blk.0.attn_q.bias", np.zeros(64, np.float32))),
        ("L3-GGF-006", lambda w: w.add_tensor("blk.7.odd.weight", np.zeros((2, 2), np.int32))),
    ],
)
def test_what_llama_3_does_not_use_is_named(code, change, model, tmp_path):
    path = write_gguf(tmp_path / "odd.gguf", model, change=change)
    with pytest.raises(CheckpointError, match=code) as caught:
        load_model(path)
    assert "odd.gguf" in str(caught.value)


def test_another_architecture_is_named(model, tmp_path):
    with pytest.raises(CheckpointError, match="architecture is 'qwen2'"):
        load_model(write_gguf(tmp_path / "model.gguf", model, arch="qwen2"))


def test_name_and_license_are_told(model, tmp_path):
    change = lambda w: w.add_name("Small") or w.add_license("apache-2.0")
    source = GgufWeights(write_gguf(tmp_path / "model.gguf", model, change=change))
    assert (source.name, source.license) == ("Small", "apache-2.0")
    bare = GgufWeights(write_gguf(tmp_path / "bare.gguf", model))
    assert (bare.name, bare.license) == ("bare", None)


@pytest.mark.parametrize(
    ("code", "old", "new"),
    [
        ("L3-CKP-015", struct.pack("<I", 2), struct.pack("<I", 1 << 14)),
        ("n_layers: 2147483648 is not a whole number .*L3-CKP-016", struct.pack("<I", 2), struct.pack("<I", 1 << 31)),
        ("n_layers: 0 is not a whole number .*L3-CKP-016", struct.pack("<I", 2), struct.pack("<I", 0)),
    ],
)
def test_hostile_layer_counts_are_refused_at_once(code, old, new, path, tmp_path):
    key = b"llama.block_count" + struct.pack("<I", 4)
    (tmp_path / "x.gguf").write_bytes(path.read_bytes().replace(key + old, key + new))
    with pytest.raises(CheckpointError, match=code):
        load_model(tmp_path / "x.gguf")


@pytest.mark.parametrize("key", ["llama.expert_count", "split.count", "llama.attention.head_count_kv"])
def test_metadata_of_the_wrong_type_is_refused(key, model, tmp_path):
    path = write_gguf(tmp_path / "x.gguf", model, change=lambda w: w.kv_data[0].pop(key, 0) or w.add_string(key, "x"))
    with pytest.raises(CheckpointError):
        load_model(path)


def test_missing_metadata_and_tensors_are_named(model, tmp_path):
    raw = write_gguf(tmp_path / "model.gguf", model).read_bytes()
    (tmp_path / "a.gguf").write_bytes(raw.replace(b"llama.embedding_length", b"llama.embedding_lengtx"))
    with pytest.raises(CheckpointError, match=r"lacks llama\.embedding_length"):
        load_model(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").write_bytes(raw.replace(b"blk.1.attn_v", b"blk.1.attn_x"))
    with pytest.raises(CheckpointError, match="L3-CKP-008") as caught:
        load_model(tmp_path / "b.gguf")
    assert "model.layers.1.self_attn.v_proj.weight" in str(caught.value)


def test_truncated_at_any_point_is_refused(path, tmp_path):
    raw = path.read_bytes()
    header = min(info.offset for info in read_gguf(path).tensors.values())
    cut = tmp_path / "cut.gguf"
    for size in [0, 3, 4, 8, 20, 24, *range(25, header, 37), header, (header + len(raw)) // 2, len(raw) - 32]:
        cut.write_bytes(raw[:size])
        with pytest.raises(CheckpointError):
            load_model(cut)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_header_is_read_or_refused(path, tmp_path, data):
    """Whatever the bytes are: a problem of ours or a config, in bounded time and memory."""
    raw = bytearray(path.read_bytes())
    header = min(info.offset for info in read_gguf(path).tensors.values())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, header - 9))
        value = data.draw(st.one_of(st.sampled_from([0, 1, 1 << 31, 1 << 40, (1 << 64) - 1]), st.integers(0, 1 << 63)))
        raw[at : at + 8] = struct.pack("<Q", value)
    (tmp_path / "damaged.gguf").write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        GgufWeights(tmp_path / "damaged.gguf")


def test_hostile_offsets_are_refused(path, model, tmp_path):
    def with_offset(value):
        raw = path.read_bytes()
        name = b"output_norm.weight"
        at = raw.index(name) + len(name) + 4 + 8 + 4
        (tmp_path / "hostile.gguf").write_bytes(raw[:at] + struct.pack("<Q", value) + raw[at + 8 :])
        return tmp_path / "hostile.gguf"

    for value, expected in [(1 << 62, "L3-GGF-004"), (1, "odd offset"), (0, "share bytes")]:
        with pytest.raises(CheckpointError, match=expected):
            load_model(with_offset(value))


def test_big_endian_is_named(model, path, tmp_path):
    raw = path.read_bytes()
    (tmp_path / "big.gguf").write_bytes(raw[:4] + struct.pack(">I", 3) + raw[8:])
    with pytest.raises(CheckpointError, match="big-endian"):
        load_model(tmp_path / "big.gguf")


def test_without_the_package_the_install_line_is_printed(path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "gguf"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(PluginError, match=r"llama3\[gguf\]"):
        load_model(path)


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model_has_the_logits_of_transformers():
    from transformers import AutoModelForCausalLM

    path = real_gguf()
    text = "The Ġcapital Ġof ĠFrance Ġis ĠParis , Ġwhich Ġlies Ġon Ġthe Ġriver ĠSeine ."
    vocabulary = read_gguf(path).metadata["tokenizer.ggml.tokens"]
    tokens = torch.tensor([vocabulary.index(word) for word in text.split(" ") if word in vocabulary])
    ours = logits_of(load_model(path), tokens)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours, theirs(tokens[None]).logits[0], atol=1e-4, rtol=0)


def test_names_of_both_sides_agree(model):
    from llama3.checkpoints.gguf import hf_name

    names = list(CONFIG.parameter_shapes())
    assert [hf_name(renamed(name, 0)) for name in names] == names
