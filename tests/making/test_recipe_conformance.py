"""The author kit of recipes: built-ins pass it, and recipes with a planted fault do not."""

from __future__ import annotations

import itertools

import pytest

from llama3.capabilities import Made
from llama3.plugins.registry import discover
from llama3.testing import CapabilityConformance

OWN_PROCESS = "test_listing_and_checking_options_needs_no_torch"
CHECKS = sorted(name for name in dir(CapabilityConformance) if name.startswith("test_") and name != OWN_PROCESS)


@pytest.mark.parametrize("recipe", discover().names("capabilities"))
def test_built_in_recipes_pass(recipe):
    case = CapabilityConformance()
    case.plugin = recipe
    for name in CHECKS:
        getattr(case, name)()


def test_listing_needs_no_torch():
    case = CapabilityConformance()
    case.plugin = "math_steps"
    getattr(case, OWN_PROCESS)()


COUNT = itertools.count()


class Careless:
    """Learns whatever is said."""

    def dialogs(self, shop, count, seed):
        asked = [task.messages for task in shop.tasks(count, seed)]
        for dialog, (reply,) in zip(asked, shop.ask(asked), strict=True):
            yield Made([*dialog, {"role": "assistant", "content": reply.text}], True, "said")


class Moody:
    """Says something else each time."""

    def dialogs(self, shop, count, seed):
        yield Made([{"role": "user", "content": f"The {next(COUNT)}th."}], False, "dropped")


class Forgetful:
    """Asks about something else each time."""

    def dialogs(self, shop, count, seed):
        shop.ask([[{"role": "user", "content": f"The {next(COUNT)}th?"}]])
        yield Made([{"role": "user", "content": "Hm."}], False, "dropped")


class Silent:
    def dialogs(self, shop, count, seed):
        yield Made([{"role": "user", "content": "Hm."}], False, "")


@pytest.mark.parametrize(
    ("recipe", "check"),
    [
        (Careless, "test_nonsense_is_not_kept"),
        (Moody, "test_the_same_again"),
        (Forgetful, "test_what_was_answered_is_not_asked_again"),
        (Silent, "test_it_makes_sound_dialogs"),
    ],
)
def test_a_planted_fault_is_found(recipe, check):
    class Case(CapabilityConformance):
        plugin = "math_steps"

        def build(self):
            return recipe()

    with pytest.raises(Exception, match=r"kept as|other dialogs|asked again|without a reason"):
        getattr(Case(), check)()


def test_a_model_that_can_do_it_must_be_learnt_from():
    class Case(CapabilityConformance):
        plugin = "math_steps"
        talk = staticmethod(lambda dialog: "I do not know.")

    with pytest.raises(AssertionError, match="wrong_result"):
        Case().test_a_model_that_can_do_it_is_learnt_from()
