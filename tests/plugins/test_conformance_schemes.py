"""The author kit of quantization schemes, strategies, presets and commands: a planted fault is found."""

from __future__ import annotations

import pytest
import typer

from llama3.errors import ConfigError
from llama3.plugins import ParallelSpec, QuantizationSpec
from llama3.testing import (
    CommandConformance,
    ParallelConformance,
    PresetConformance,
    QuantizationConformance,
)
from llama3_plugins.quantization.int8 import Int8


class FourBits(Int8):
    """Symmetric, a scale for every 32 columns, codes in a byte each or two in one."""

    packed = False
    group = 32

    def quantize(self, weights, calibration):
        found = {}
        for name, weight in weights.items():
            grouped = weight.float().view(len(weight), -1, self.group)
            largest = grouped.abs().amax(-1, keepdim=True)
            scale = largest.where(largest > 0, largest.new_ones(())) / 7
            codes = ((grouped / scale).round() + 8).to(__import__("torch").uint8).view(len(weight), -1)
            codes = codes[:, ::2] + 16 * codes[:, 1::2] if self.packed else codes
            found[name] = {"codes": codes, "scale": scale.squeeze(-1)}
        return found

    def dequantize(self, parts):
        import torch

        codes = parts["codes"]
        if self.packed:
            codes = torch.stack([codes % 16, codes // 16], -1).view(len(codes), -1)
        grouped = (codes.float() - 8).view(len(codes), -1, self.group)
        return (grouped * parts["scale"][..., None]).view(len(codes), -1)

    def make_linear(self, parts):
        import torch

        module = torch.nn.Module()
        for name, part in parts.items():
            module.register_buffer(name, part)
        module.forward = lambda x: x @ self.dequantize(dict(module.named_buffers())).T
        return module


class Packed(FourBits):
    packed = True


class ThreeOfFour(FourBits):
    """Loses the lowest bits of its codes."""

    def quantize(self, weights, calibration):
        found = super().quantize(weights, calibration)
        return {name: {**parts, "codes": parts["codes"] // 8 * 8} for name, parts in found.items()}


@pytest.mark.parametrize("bits", [4, None])
@pytest.mark.parametrize("scheme", [FourBits, Packed])
def test_four_bits_are_judged_as_four_bits(scheme, bits, monkeypatch):
    class Kit(QuantizationConformance):
        plugin = "four_bits"
        spec = QuantizationSpec(name="four_bits", factory="a:B", bits=bits)

        def build(self):
            return scheme()

    Kit().test_error_is_what_its_bits_allow_and_bytes_are_saved()
    Kit().test_the_module_computes_what_its_parts_stand_for()
    Kit().test_odd_matrices_stay_finite()
    monkeypatch.setattr(Kit, "spec", QuantizationSpec(name="four_bits", factory="a:B", bits=8))
    with pytest.raises(AssertionError, match="at 8 bits"):
        Kit().test_error_is_what_its_bits_allow_and_bytes_are_saved()
    monkeypatch.setattr(Kit, "spec", QuantizationSpec(name="four_bits", factory="a:B", bits=4))
    monkeypatch.setattr(Kit, "build", lambda self: ThreeOfFour())
    with pytest.raises(AssertionError, match="at 4 bits"):
        Kit().test_error_is_what_its_bits_allow_and_bytes_are_saved()


STRATEGIES = """
from llama3.parallelism import ParallelStrategy
from llama3.plugins import ParallelSpec, hookimpl

@hookimpl
def llama3_parallel_strategies():
    names = ("Lonely", "Strict")
    return [ParallelSpec(name=name.lower(), factory=f"toys_main:{name}", axis="dp") for name in names]

class Lonely(ParallelStrategy):
    '''Replicas that do not add their gradients.'''

class Strict(ParallelStrategy):
    def check(self, model, dims):
        raise ValueError("ask later")
"""


def test_faults_of_a_strategy_are_found(site, monkeypatch):
    from llama3.plugins.registry import discover

    site.add("toys", STRATEGIES, module="toys_main")
    discover.cache_clear()
    try:
        for plugin, check in (
            ("lonely", "two_processes_train_as_one"),
            ("strict", "it_checks_sizes_without_a_process_group"),
        ):
            case = ParallelConformance()
            case.plugin = plugin
            assert isinstance(case.spec, ParallelSpec)
            with pytest.raises((AssertionError, ValueError)):
                getattr(case, f"test_{check}")()
    finally:
        discover.cache_clear()


def test_presets_and_commands_are_checked_by_their_own_doors(site, monkeypatch):
    from llama3.plugins.registry import discover

    (site.path / "herd").mkdir()
    (site.path / "herd" / "__init__.py").write_text("")
    (site.path / "herd" / "small.yaml").write_text("# a small herd\nextends: quickstart\nrun: {seed: 3}\n")
    (site.path / "herd_app.py").write_text(
        "import typer\napp = typer.Typer()\n@app.command()\ndef moo(): print('moo')\n"
    )
    site.add("herd", """
        from llama3.plugins import CommandSpec, PresetSpec, hookimpl

        @hookimpl
        def llama3_presets():
            return [PresetSpec(name="herd", factory="herd")]

        @hookimpl
        def llama3_commands():
            return [CommandSpec(name="moo", factory="herd_app:app", summary="says it")]
        """, module="herd_plugin")  # fmt: skip
    discover.cache_clear()
    try:
        preset, command = PresetConformance(), CommandConformance()
        preset.plugin, command.plugin = "herd", "moo"
        for case in (preset, command):
            for method in sorted(name for name in dir(case) if name.startswith("test_")):
                getattr(case, method)()
        (site.path / "herd" / "small.yaml").write_text("run: {sede: 3}\n")
        with pytest.raises(AssertionError, match="small"):
            preset.test_every_preset_says_what_it_is_for()
        with pytest.raises(ConfigError, match="sede"):
            preset.test_every_preset_is_a_valid_config()
        (site.path / "herd" / "small.yaml").unlink()
        with pytest.raises(AssertionError, match="no file"):
            preset.test_the_package_has_presets()
        monkeypatch.setattr(CommandConformance, "build", lambda self: typer.Typer)
        with pytest.raises(AssertionError, match=r"typer\.Typer"):
            command.test_it_is_a_typer()
        (site.path / "herd_app.py").write_text("raise SystemExit(3)\n")
        with pytest.raises(AssertionError):
            command.test_llama3_shows_its_help()
    finally:
        discover.cache_clear()
