"""Meta's layout: merged from any number of ranks, equal to transformers, and never executed."""

from __future__ import annotations

import collections
import dataclasses
import os
import pickle
import pickletools
import struct
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import CONFIG, logits_of, random_model, write_meta

from llama3.checkpoints.load import load_model, read_config
from llama3.checkpoints.meta import MetaWeights, ffn_rule, meta_params
from llama3.checkpoints.pth import read_pth
from llama3.checkpoints.weights import to_hf
from llama3.errors import CheckpointError, ConfigError
from llama3.model.config import PRESETS, ModelConfig, RopeScaling


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("embedding_axis", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranks_are_merged(ranks, embedding_axis, dtype, model, tmp_path):
    stored = random_model().to(dtype)
    folder = write_meta(tmp_path / "m", stored, ranks, embedding_axis=embedding_axis)
    assert dataclasses.replace(read_config(folder), max_seq_len=CONFIG.max_seq_len) == CONFIG
    loaded = load_model(folder).state_dict()
    assert all(torch.equal(x.to(dtype).float(), loaded[name]) for name, x in model.state_dict().items())
    assert MetaWeights(folder).dtype == dtype


def test_logits_are_those_of_transformers(model, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(LlamaConfig(**{**CONFIG.to_hf(), "architectures": None})).eval()
    theirs.load_state_dict(to_hf(CONFIG, model.state_dict()))
    tokens = torch.randint(0, CONFIG.vocab_size, (40,), generator=torch.Generator().manual_seed(1))
    ours = load_model(write_meta(tmp_path / "m", model, 2))
    with torch.no_grad():
        torch.testing.assert_close(logits_of(ours, tokens), theirs(tokens[None]).logits[0], atol=1e-4, rtol=0)


def test_rotary_pairs_are_those_of_metas_code(model, tmp_path):
    """Scores of rotated queries and keys, with (2i, 2i + 1) as the complex numbers of Meta's reference code."""
    folder = write_meta(tmp_path / "m", model)
    weights = torch.load(folder / "consolidated.00.pth", weights_only=True)
    x_TD = torch.randn(7, CONFIG.dim, generator=torch.Generator().manual_seed(0))
    frequencies = 1.0 / CONFIG.rope_theta ** (torch.arange(0, CONFIG.head_dim, 2) / CONFIG.head_dim)
    angles = torch.polar(torch.ones(7, 8), torch.outer(torch.arange(7.0), frequencies))

    def metas(name, heads):
        y = (x_TD @ weights[f"layers.0.attention.{name}.weight"].T).view(7, heads, -1, 2)
        return torch.view_as_real(torch.view_as_complex(y) * angles[:, None]).flatten(2)

    def ours(name, heads):
        y = (x_TD @ MetaWeights(folder).get(f"model.layers.0.self_attn.{name}.weight").T).view(7, heads, 2, -1)
        cos, sin = angles.real[:, None], angles.imag[:, None]
        return torch.cat([y[:, :, 0] * cos - y[:, :, 1] * sin, y[:, :, 1] * cos + y[:, :, 0] * sin], -1)

    theirs = torch.einsum("thc,shc->hts", metas("wq", 4), metas("wk", 2).repeat_interleave(2, 1))
    found = torch.einsum("thc,shc->hts", ours("q_proj", 4), ours("k_proj", 2).repeat_interleave(2, 1))
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", ["absent", "shared", "equal"])
def test_tied_output_is_recognised(how, model, tmp_path):
    folder = write_meta(tmp_path / "m", model)
    weights = torch.load(folder / "consolidated.00.pth", weights_only=True)
    weights["output.weight"] = weights["tok_embeddings.weight"]
    if how == "absent":
        del weights["output.weight"]
    if how == "equal":
        weights["output.weight"] = weights["output.weight"].clone()
    torch.save(weights, folder / "consolidated.00.pth")
    assert read_config(folder).tied
    assert load_model(folder).config.tied


@pytest.mark.parametrize(
    "save",
    [
        lambda w: collections.OrderedDict(w),
        lambda w: {name: torch.nn.Parameter(x) for name, x in w.items()},
        lambda w: {name: torch.stack([x, x], -1)[..., 0] for name, x in w.items()},  # strided
        lambda w: {name: torch.cat([x, x])[len(x) :] for name, x in w.items()},  # a part of a larger storage
        lambda w: {**w, "rope.freqs": torch.ones(8)},
    ],
)
def test_whatever_torch_writes_of_a_dict_of_tensors(save, model, tmp_path):
    folder = write_meta(tmp_path / "m", model)
    weights = torch.load(folder / "consolidated.00.pth", weights_only=True)
    for protocol in (2, 4):
        torch.save(save(weights), folder / "consolidated.00.pth", pickle_protocol=protocol)
        loaded = load_model(folder).state_dict()
        assert all(torch.equal(x, loaded[name]) for name, x in model.state_dict().items())


def test_a_modules_state_dict_with_its_versions(tmp_path):
    module = torch.nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "x.pth")
    assert {name: x.shape for name, x in read_pth(tmp_path / "x.pth").items()} == {"weight": (2, 3), "bias": (2,)}


# -- hostile files ---------------------------------------------------------------------------------


class Payload:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path, pickle_bytes, members=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickle_bytes)
        for key, content in (members or {"0": b"\0" * 64}).items():
            file.writestr(f"archive/data/{key}", content)
    return path


def touch(path) -> str:
    return f"touch {path}"


HOSTILE = {
    "reduce": lambda mark: pickle.dumps({"x": Payload(os.system, touch(mark))}, 2),
    "reduce, protocol 4": lambda mark: pickle.dumps({"x": Payload(os.system, touch(mark))}, 4),
    "reduce, protocol 0": lambda mark: pickle.dumps({"x": Payload(os.system, touch(mark))}, 0),
    "eval": lambda mark: pickle.dumps(Payload(eval, f"__import__('os').system('{touch(mark)}')"), 2),
    "as a key": lambda mark: pickle.dumps({Payload(os.system, touch(mark)): 1}, 2),
    "inst": lambda mark: f"(S'{touch(mark)}'\nios\nsystem\n.".encode(),
    "obj": lambda mark: b"(cos\nsystem\nV" + touch(mark).encode() + b"\no.",
    "newobj": lambda mark: b"\x80\x02cos\nsystem\nV" + touch(mark).encode() + b"\n\x85\x81.",
    "torch's own loader": lambda mark: b"\x80\x02ctorch\nload\nV" + str(mark).encode() + b"\n\x85R.",
    "attribute chain": lambda mark: b"\x80\x04\x8c\x0ctorch._utils\x8c\x05sys.x\x93.",
    "a name put together": lambda mark: b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93\x8c\x02id\x85R.",
    "extension registry": lambda mark: b"\x80\x02\x82\x01.",
    "state of an object": lambda mark: b"\x80\x02ccollections\nOrderedDict\nccollections\nOrderedDict\nb.",
    "ordered dict with arguments": lambda mark: b"\x80\x02ccollections\nOrderedDict\n}\x85R.",
    "call of a string": lambda mark: b"\x80\x02X\x02\x00\x00\x00id)R.",
    "text persistent id": lambda mark: b"Pstorage\n.",
    "storage of pickles": lambda mark: b"\x80\x02(X\x07\x00\x00\x00storagectorch\nload\nX\x01\x00\x00\x000NK\x01tQ.",
}


@pytest.mark.parametrize("disguise", HOSTILE)
def test_a_hostile_pickle_is_named_and_never_run(disguise, tmp_path):
    mark = tmp_path / "mark"
    path = archive(tmp_path / "consolidated.00.pth", HOSTILE[disguise](mark))
    with pytest.raises(CheckpointError, match="L3-PTH-002") as caught:
        read_pth(path)
    assert "nothing of this one was executed" in str(caught.value)
    assert not mark.exists()


def test_the_hostile_name_is_told(tmp_path):
    path = archive(tmp_path / "x.pth", HOSTILE["reduce"](tmp_path / "mark"))
    with pytest.raises(CheckpointError, match=r"names '(posix|nt|os)\.system'"):
        read_pth(path)


def test_reading_runs_no_unpickler(model, tmp_path, monkeypatch):
    folder = write_meta(tmp_path / "m", model)
    for module, name in [(pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load")]:
        monkeypatch.setattr(module, name, None)
    load_model(folder)


def tensor_pickle(start=0, shape=(4, 4), stride=(4, 1), elements=16, key="0"):
    """What torch writes for {"x": tensor}, with any numbers."""

    def number(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    def tuple_(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    text = lambda value: b"X" + struct.pack("<I", len(value)) + value.encode()
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(elements) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(start) + tuple_(shape) + tuple_(stride)
    return b"\x80\x02}(" + text("x") + call + b"\x89ccollections\nOrderedDict\n)RtRu."


def test_hostile_numbers_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    assert read_pth(archive(path, tensor_pickle()))["x"].shape == (4, 4)
    for wrong in (
        {"start": 1}, {"start": -1}, {"shape": (4, 5)}, {"shape": (-4, 4)}, {"stride": (1 << 60, 1)},
        {"stride": (4, -1)}, {"elements": 17}, {"elements": -1}, {"key": "9"}, {"shape": (4, 4, 1)},
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match="L3-PTH-001"):
            read_pth(archive(path, tensor_pickle(**wrong)))


def test_damaged_archives_are_refused(model, tmp_path):
    folder = write_meta(tmp_path / "m", model)
    file = folder / "consolidated.00.pth"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="L3-PTH-003"):
        load_model(folder)
    torch.save({"x": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before version 1\.6"):
        load_model(folder)
    with pytest.raises(CheckpointError, match="compressed"):
        read_pth(archive(file, tensor_pickle(), compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="'optimizer' is not a tensor"):
        read_pth(archive(file, pickle.dumps({"optimizer": 3}, 2)))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_any_damage_to_the_pickle_is_a_problem_of_ours(tmp_path, data):
    raw = bytearray(tensor_pickle())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(2, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensors = read_pth(archive(tmp_path / "x.pth", bytes(raw)))
    except CheckpointError:
        return
    assert all(stored.start + stored.span <= 16 for stored in tensors.values() if 0 not in stored.shape)


def test_the_pickle_of_these_tests_is_what_torch_writes():
    """The hand-made pickle uses the opcodes that torch does."""
    names = {opcode.name for opcode, _, _ in pickletools.genops(tensor_pickle())}
    assert {"BINPERSID", "REDUCE", "SETITEMS", "GLOBAL"} <= names


# -- params.json -----------------------------------------------------------------------------------


def test_files_that_do_not_belong_together_are_named(model, tmp_path):
    folder = write_meta(tmp_path / "m", model, 2)
    (folder / "consolidated.01.pth").rename(folder / "consolidated.02.pth")
    with pytest.raises(CheckpointError, match="L3-MTA-001"):
        load_model(folder)
    folder = write_meta(tmp_path / "n", model, 2)
    weights = torch.load(folder / "consolidated.01.pth", weights_only=True)
    del weights["layers.1.attention.wq.weight"]
    torch.save(weights, folder / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match="L3-MTA-002"):
        load_model(folder)
    for text in ("{", "[]", '{"dim": 64}', '{"dim": "64", "n_heads": 4, "n_layers": 2}'):
        folder = write_meta(tmp_path / "o", model)
        (folder / "params.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"L3-MTA-003|L3-CKP-016"):
            load_model(folder)


def test_scaled_rope_and_context(model, tmp_path):
    scaled = read_config(write_meta(tmp_path / "a", model, change=lambda p: p.update(use_scaled_rope=True)))
    assert (scaled.rope_scaling, scaled.max_seq_len) == (RopeScaling(), 131_072)
    change = lambda p: p.update(use_scaled_rope=True, rope_scaling_factor=32.0)
    assert read_config(write_meta(tmp_path / "b", model, change=change)).rope_scaling == RopeScaling(factor=32.0)


@pytest.mark.parametrize(
    ("preset", "multiplier", "multiple"),
    [("llama-3-8b", 1.3, 1024), ("llama-3-70b", 1.3, 4096), ("llama-3.1-405b", 1.2, 4096), ("llama-3.2-1b", 1.5, 256)],
)
def test_the_released_params_give_the_released_widths(preset, multiplier, multiple):
    config = PRESETS[preset]
    assert ffn_rule(config.dim, multiplier, multiple) == config.ffn_dim


@given(dim=st.integers(1, 600).map(lambda n: 2 * n), ffn=st.integers(1, 5000))
def test_every_ffn_width_can_be_written(dim, ffn):
    params = meta_params(ModelConfig(dim, 1, 1, 1, ffn, 10))
    assert ffn_rule(dim, params["ffn_dim_multiplier"], params["multiple_of"]) == ffn


def test_what_params_cannot_say_is_named():
    with pytest.raises(ConfigError, match="head_dim"):
        meta_params(dataclasses.replace(CONFIG, head_dim=32))
    with pytest.raises(ConfigError, match="rope_scaling"):
        meta_params(dataclasses.replace(CONFIG, rope_scaling=RopeScaling(original_max_position=4096)))
