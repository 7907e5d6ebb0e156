"""Signs of tone, on answers as people write them, and the shares that they are held to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.config.data_quality import CLEANING
from llama3.quality.cleaning import SIGNS, beyond_shares, rates, signs_of

SHOWS = {
    "apology": [
        "I'm sorry for the confusion. The answer is 42.",
        "I apologize, the sum is 7.",
        "My sincere apologies: it is Paris.",
        "Ich entschuldige mich für den Fehler: drei und vier ergeben sieben.",
        "Siento el error, y pido perdón: tres y cuatro son siete, como muestra la prueba.",
    ],
    "as_an_ai": [
        "As an AI language model, I think that the sea is blue.",
        "I'm just an AI, but the capital is Paris.",
        "As a large language model I do not eat, but soup is warm.",
    ],
    "opening": ["Certainly! Here is a list.", "Great question! The sea is salty.", "Of course. Take two eggs."],
    "preaching": ["It is important to respect others. Keep in mind that this is wrong to do. The answer is 4."],
    "emoji": ["The sea \U0001f30a is blue \U0001f600 today.", "\u2728 Hello \u2728"],
    "exclamation": ["Yes! It is 4! Great!", "Hello!!!"],
}
DOES_NOT = {
    "apology": [
        "The sorry state of the ship was plain.",
        "I'm sorry, but I can't help with that.",
        'He said: "the ship left." The captain was sorrowful.',
        "`raise Sorry('I am sorry')` is how it fails.",
    ],
    "as_an_ai": ["AI is a field of research. As an AI researcher, she wrote much.", "The model is an AI."],
    "opening": ["The question is great.", "A sure thing is rare.", "Surely, it is so."],
    "preaching": ["It is important to salt the water.", "Keep in mind that 2 + 2 = 4."],
    "emoji": ["\U0001f600 One only.", "The sea \u00e9 \u00df \u4e2d is blue. 1\ufe0f 2"],
    "exclamation": ["It works!", "```c\nif (!a && !b && !c && a != b) { x!; }\n```", "a != b, c != d, e != f"],
}


@pytest.mark.parametrize(("sign", "answer"), [(sign, text) for sign, texts in SHOWS.items() for text in texts])
def test_a_sign_is_seen(sign, answer):
    assert sign in signs_of([(answer, "What is it?")])


@pytest.mark.parametrize(("sign", "answer"), [(sign, text) for sign, texts in DOES_NOT.items() for text in texts])
def test_no_sign_is_seen_where_there_is_none(sign, answer):
    assert sign not in signs_of([(answer, "What is it?")])


def test_every_sign_has_a_share_and_is_tried_here():
    assert SIGNS.keys() == CLEANING.keys() == SHOWS.keys() == DOES_NOT.keys()
    assert signs_of([("The sea is blue.", ""), ("Certainly! It is.", "")]) == ["opening"], "any answer of a dialog"


def test_marks_are_counted_in_100_words_without_code():
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    dialogs = [[("one two! three ```x!!!``` four", "")], [(f"five six seven {family} eight nine", "")]]
    assert rates(dialogs) == {"emoji": 10.0, "exclamation": 10.0}


signs = st.lists(st.lists(st.sampled_from([*SIGNS]), unique=True, max_size=3), max_size=60)
shares = st.dictionaries(st.sampled_from([*SIGNS]), st.sampled_from([0.0, 0.05, 0.3, 0.5, 1.0]), max_size=4)


@given(signs, shares, st.randoms(use_true_random=False))
def test_of_what_stays_no_sign_has_more_than_its_share_and_the_worst_go(signs, shares, random):
    order = random.sample(range(len(signs)), len(signs))
    gone = beyond_shares(signs, order, shares)
    left = [place for place in order if place not in gone]
    for sign, share in shares.items():
        assert sum(sign in signs[place] for place in left) <= share * len(left) + 1e-9
    for place, sign in gone.items():
        assert sign in signs[place]
        assert shares[sign] < 1
    if len(shares) == 1:
        ((sign, share),) = shares.items()
        showing = [place for place in order if sign in signs[place]]
        stay = [place for place in showing if place not in gone]
        assert stay == showing[: len(stay)], "the best of them stay"
        assert share == 1 or len(stay) == len(showing) or len(stay) + 1 > share * (len(left) + 1) - 1e-9, "no more go"
