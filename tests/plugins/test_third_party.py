"""Third parties: packages built and installed beside the wheel into a clean environment, outside the source tree."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from installing import ROOT, Env, run

pytestmark = pytest.mark.install


@pytest.fixture(scope="module")
def env(wheel, tmp_path_factory):
    """The wheel, a good plugin package and a broken one."""
    env = Env(tmp_path_factory.mktemp("third") / "env")
    env.install("--no-deps", "--no-index", wheel)
    env.borrow_packages()
    built = tmp_path_factory.mktemp("examples")
    for name in ("llama3-acme", "llama3-broken"):
        source = built / name  # a copy: building writes into the source
        shutil.copytree(ROOT / "examples" / name, source)
        command = ["wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", built, source]
        run([sys.executable, "-m", "pip", *command])
    env.install("--no-deps", "--no-index", *built.glob("*.whl"))
    return env


def test_the_example_is_short():
    """The package; its tests are counted by themselves."""
    files = [path for path in (ROOT / "examples" / "llama3-acme").rglob("*") if path.suffix in (".py", ".toml")]
    tests = [path for path in files if path.parent.name == "tests"]
    assert sum(len(path.read_text().splitlines()) for path in tests) in range(1, 15)
    files = [path for path in files if path not in tests]
    assert sum(len(path.read_text().splitlines()) for path in files) <= 60


def test_it_appears_and_the_broken_one_is_reported_with_its_fix(env):
    listed = json.loads(env.llama3("plugins", "list", "--json").stdout)
    acme = {row["name"]: row for row in listed["plugins"] if row["dist"] == "llama3-acme"}
    assert sorted(acme) == ["simpo", "words"]
    assert {row["status"] for row in acme.values()} == {"ok"}
    assert {row["version"] for row in acme.values()} == {"0.1"}
    (broken,) = listed["broken"]
    assert (broken["dist"], broken["version"], broken["phase"]) == ("llama3-broken", "0.1", "import")
    assert broken["fix"] == "pip install llama3-nowhere (or pip uninstall llama3-broken)"
    doctor = env.llama3("doctor", check=False)
    assert doctor.returncode == 1
    assert "pip install llama3-nowhere" in doctor.stdout


def test_the_allow_list_and_strictness(env):
    listed = json.loads(env.llama3("plugins", "list", "--json", LLAMA3_PLUGINS="llama3-acme").stdout)
    assert listed["broken"] == []
    assert "simpo" in [row["name"] for row in listed["plugins"]]
    listed = json.loads(env.llama3("plugins", "list", "--json", LLAMA3_PLUGINS="").stdout)
    assert "simpo" not in [row["name"] for row in listed["plugins"]]
    strict = env.llama3("config", "validate", "quickstart", check=False, LLAMA3_PLUGINS_STRICT="1")
    assert strict.returncode == 4
    assert "llama3-broken 0.1" in strict.stderr


def test_it_is_selected_by_config(env):
    algorithm = "post_training.algorithm={name: simpo, beta: 1.5}"
    policy = "safety.policy={input: {any: [prompt_injection, {guard: {name: words, words: [xyzzy]}}]}}"
    env.llama3("config", "validate", "quickstart", "--set", algorithm, "--set", policy)
    typo = env.llama3("config", "validate", "quickstart", "--set", "post_training.algorithm=simpoo", check=False)
    assert typo.returncode == 4
    assert "did you mean 'simpo'?" in typo.stderr
    assert "llama3-broken" in typo.stderr
    option = env.llama3("config", "explain", "post_training.algorithm.gamma", "--set", "post_training.algorithm=simpo")
    assert "margin by which the chosen answer must win" in option.stdout


TRAIN = """
from llama3.config import load
from llama3.config.schema import OptimizerSection
from llama3.plugins.registry import discover
from llama3.safety.engine import PolicyEngine
from llama3.testing.toys import ToyData, ToyServices, toy_examples, toy_model
from llama3.training.loop import train
from llama3.training.placed import PlacedModel
from llama3.training.schedule import Schedule
from llama3_plugins.data_kinds.pairs import Pairs

loaded = load("quickstart", ["post_training.algorithm={name: simpo, beta: 1.5}"])
slot = loaded.config.post_training.algorithm
algorithm = discover().build("algorithms", slot.name, slot.options)
assert type(algorithm).__module__ == "llama3_acme.simpo" and algorithm.options.beta == 1.5
model = toy_model()
before = model.lm_head.weight.clone()
options = OptimizerSection(lr=1e-3, precision="fp32", log_every=1)
progress = train(
    PlacedModel(model), algorithm, ToyData(toy_examples("pairs")), collate=Pairs().collate, options=options,
    schedule=Schedule.cosine(peak=1e-3, final=1.0, warmup=0, steps=3), seed=0, services=ToyServices(model),
)
assert progress.step == 3 and progress.skipped == 0 and not before.equal(model.lm_head.weight)
with PolicyEngine({"output": "words"}, lambda name, options: discover().build("guards", name, options)) as guards:
    assert guards.decide("output", "my PASSWORD is").blocked and not guards.decide("output", "hello").blocked
print("trained", progress.metrics)
"""


def test_it_trains_and_guards(env):
    assert "trained" in env.call("-c", TRAIN).stdout


def test_it_passes_the_author_kit(env):
    checked = json.loads(env.llama3("plugins", "check", "simpo", "--json").stdout)
    (rows,) = checked["plugins"].values()
    assert len(rows) > 10
    assert {row["status"] for row in rows} == {"ok"}
    env.llama3("plugins", "check", "words")
    failed = env.llama3("plugins", "check", "llama3-broken", check=False)
    assert failed.returncode == 4
    assert "pip install llama3-nowhere" in failed.stderr
