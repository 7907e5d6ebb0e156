"""The author kit of attackers: built-ins pass it, and attackers with a planted fault do not."""

from __future__ import annotations

import itertools

import pytest

from llama3.checkpoints.weights import save_model
from llama3.redteam.attack import Attack, Attacker, Wording
from llama3.redteam.loop import faults_of
from llama3.safety.guard import Turn
from llama3.testing import AttackerConformance
from llama3.testing.toys import toy_llama
from llama3_plugins.attackers.options import TemplatesOptions
from llama3_plugins.attackers.templates import Templates


class TestTemplates(AttackerConformance):
    plugin = "templates"


class TestModel(AttackerConformance):
    """A tiny model says nothing that could be a request, so most of it is None: that too is an answer."""

    plugin = "model"


@pytest.fixture(scope="module", autouse=True)
def model(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("model"), toy_llama()
    save_model(model.transformer, folder)
    model.tokenizer.save(folder)
    TestModel.options = {"model": str(folder), "max_tokens": 4, "device": "cpu"}


NUMBERS = itertools.count()


class Unlike(Templates):
    """Another attack each time."""

    def write(self, requests):
        text = f"number {next(NUMBERS)}"
        return [Attack(request.parent.chain, ((Turn("user", text),),)) for request in requests]


class Short(Templates):
    def write(self, requests):
        return super().write(requests)[:-1]


class Talks(Templates):
    """Ends with what the assistant should say."""

    def write(self, requests):
        return [Attack(attack.chain, ((*attack.steps[0], Turn("assistant", "Sure")),)) for attack in
                super().write(requests)]  # fmt: skip


class Stateful(Templates):
    """Its writing depends on who is asked beside it."""

    def write(self, requests):
        return [Attack(a.chain, ((Turn("user", f"{n}"),),)) for n, a in enumerate(super().write(requests))]


class Twice(Templates):
    styles = ("plain", "plain")


class Nothing(Attacker):
    styles = ()

    def write(self, requests):
        return []


FAULTS = {
    Unlike: "test_the_same_request_gives_the_same_attack",
    Short: "test_every_style_is_written_for_every_prompt",
    Talks: "test_every_style_is_written_for_every_prompt",
    Stateful: "test_the_same_request_gives_the_same_attack",
    Twice: "test_it_names_its_styles",
    Nothing: "test_it_names_its_styles",
}


STEP = (Turn("user", "a"),)
WORDING = (Wording("", "a"),)


@pytest.mark.parametrize(
    "attack",
    [
        Attack(("a text",), (STEP,)),
        Attack((Wording("", 5),), (STEP,)),
        Attack(WORDING, (STEP,), mark=5),
        Attack(WORDING, ("ab",)),
        Attack(WORDING, (5,)),
        Attack(WORDING, ({"role": "user", "content": "a"},)),
        Attack(WORDING, ((),)),
        Attack(5, (STEP,)),
        Attack(WORDING, 5),
    ],
)
def test_what_is_no_attack_is_a_fault(attack):
    assert list(faults_of([attack], 1))
    assert not list(faults_of([Attack(WORDING, (STEP,), mark="m"), None], 2))


@pytest.mark.parametrize(("fault", "check"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_is_found(fault, check):
    class Kit(AttackerConformance):
        plugin = "templates"

        def build(self):
            return fault(TemplatesOptions()) if issubclass(fault, Templates) else fault()

    with pytest.raises((AssertionError, ValueError)):
        getattr(Kit(), check)()
