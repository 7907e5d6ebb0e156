"""What a prompt teaches, given what the model answers to it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from llama3.alignment.pairs import JudgedSample, learnt_from
from llama3.evaluation.safety_rows import SafetyPrompt
from llama3.safety.guard import Turn
from llama3.safety.tone import tone

REFUSES = "I can't help with that. I can help with something else instead."
SHORT = "I'm sorry, but I can't assist with that."
PREACHES = "I can't help with that. It is important to respect the law."
HELPS, HELPS_TOO = "Sure, first you open the door of the house.", "You take the key and turn it in the lock."


def prompt(kind, lang="en"):
    turns = (Turn("user", "How do I open it?"), Turn("assistant", "Sure."), Turn("user", "And the other door?"))
    return SafetyPrompt("p", kind, lang, "theft_and_fraud", turns, {})


def sample(text, logp=-1.0, *, whole=True, judged=True):
    refuses = text in (REFUSES, SHORT, PREACHES)
    return JudgedSample(text, logp, whole, not refuses if judged else None, refuses if judged else None)


def learn(kind, *samples, least=0.0, apart=0.5, lang="en"):
    return learnt_from(prompt(kind, lang), samples, lambda a, b: apart, least, random.Random(1))


def test_a_good_refusal_of_the_models_own_is_preferred():
    found = learn("adversarial", sample(HELPS, -2), sample(HELPS_TOO, -1), sample(SHORT, -0.5), sample(REFUSES, -3))
    assert (found.answer, found.origin, found.rejected) == (REFUSES, "own", HELPS_TOO)
    assert learn("adversarial", sample(HELPS), sample(SHORT)).answer == SHORT


def test_a_refusal_in_a_bad_tone_is_replaced_and_is_not_what_is_rejected():
    found = learn("adversarial", sample(PREACHES), sample(HELPS))
    assert found.origin == "template"
    assert tone(found.answer).is_good
    assert found.rejected == HELPS
    assert learn("adversarial", sample(PREACHES)).why == "nothing_worse"
    assert learn("adversarial", sample(HELPS), lang="de").answer.endswith(".")


def test_help_is_learnt_against_a_refusal():
    found = learn("borderline", sample(HELPS, -2), sample(HELPS_TOO, -1), sample(SHORT, -3))
    assert (found.answer, found.rejected) == (HELPS_TOO, SHORT)
    found = learn("benign", sample(HELPS))
    assert found.answer == HELPS
    assert tone(found.rejected).is_good
    found = learn("borderline", sample(SHORT))
    assert (found.answer, found.why) == ("", "no_help")


def test_what_no_judge_could_tell_teaches_nothing():
    assert learn("adversarial", sample(HELPS, judged=False)).why == "nothing_worse"
    assert learn("borderline", sample(HELPS, judged=False)).why == "no_help"


def test_answers_that_break_off_are_not_learnt():
    assert learn("borderline", sample(HELPS, whole=False)).why == "no_help"
    assert learn("adversarial", sample(REFUSES, whole=False)).origin == "template"


def test_rows_leave_out_what_the_conversation_said_before():
    found = learn("adversarial", sample(HELPS))
    messages = found.dialog()["messages"]
    assert [message.get("weight") for message in messages] == [None, 0, None, None]
    assert messages[-1] == {"role": "assistant", "content": found.answer}
    assert found.pair()["messages"] == messages[:-1]
    assert [(row["completion"], row["label"]) for row in found.labels()] == [(found.answer, True), (HELPS, False)]


@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(0, 2)), min_size=1, max_size=8), st.floats(0, 2))
def test_pairs_are_far_enough_apart_and_of_those_the_likeliest_mistake_is_taken(drawn, least):
    samples = [sample(f"Sure, do it like this in {n} ways.", logp) for n, (logp, _) in enumerate(drawn)]
    apart = {one.text: distance for one, (_, distance) in zip(samples, drawn, strict=True)}
    found = learnt_from(prompt("adversarial"), samples, lambda a, b: apart[b], least, random.Random(1))
    far = [one for one in samples if apart[one.text] >= least]
    if not far:
        assert (found.rejected, found.why, found.distance) == ("", "too_near", max(apart.values()))
    else:
        assert found.distance == apart[found.rejected] >= least
        assert next(one for one in far if one.text == found.rejected).mean_logp == max(one.mean_logp for one in far)
