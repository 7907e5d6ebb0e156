"""Letters that were all spaced alike are words again; all else stays as it is, every character with its place."""

from __future__ import annotations

import random
import re

from hypothesis import given
from hypothesis import strategies as st
from rows_of_guards import ATTACKS, BENIGN

from llama3.guarding.reading import unfolded
from llama3.guarding.words import LONG, common_words, costs_of, parted

COSTS = costs_of(common_words(unfolded(text).text for text in (*ATTACKS, *BENIGN)))
WORDS = re.compile(r"[a-z]+")


def spaced_alike(text: str) -> str:
    """A space between all letters, words and all."""
    return " ".join("".join(text.split()))


def test_words_are_found_again_in_letters_that_are_all_spaced_alike():
    kept = total = 0
    for text in random.Random(1).sample(ATTACKS, 40):
        read, hidden = (parted(unfolded(form), COSTS).text for form in (text, spaced_alike(text)))
        assert WORDS.findall(unfolded(spaced_alike(text)).text) != WORDS.findall(read)
        kept += len(set(WORDS.findall(read)) & set(WORDS.findall(hidden)))
        total += len(set(WORDS.findall(read)))
    assert kept / total > 0.95


def test_a_text_without_gaps_is_read_as_one_with_them():
    text = ATTACKS[0]
    assert WORDS.findall(parted(unfolded(text.replace(" ", "")), COSTS).text) == WORDS.findall(unfolded(text).text)


def test_texts_of_known_words_stay_as_they_are():
    for text in (*ATTACKS, *BENIGN):
        read = unfolded(text)
        assert parted(read, COSTS) == read


@given(st.text("abcthe n.\u0430A", max_size=80) | st.sampled_from(ATTACKS).map(spaced_alike))
def test_only_gaps_are_added_and_places_stay_in_order(text):
    read = unfolded(text)
    found = parted(read, COSTS)
    assert len(found.text) == len(found.origin)
    assert list(found.origin) == sorted(found.origin)
    assert found.text.replace(" ", "") == read.text.replace(" ", "")
    assert all(0 <= place < len(text) for place in found.origin)
    for word in re.findall(r"(?<![a-z])[a-z]+(?![a-z])", read.text):
        if len(word) < LONG:
            assert word in WORDS.findall(found.text)


def test_parting_takes_time_that_goes_by_the_length():
    """By what is looked up, not by a clock."""

    class Counted(dict):
        asked = 0

        def get(self, *args):
            Counted.asked += 1
            return super().get(*args)

    seen = []
    for length in (1000, 4000):
        Counted.asked = 0
        parted(unfolded("ab" * length), Counted(COSTS))
        seen.append(Counted.asked)
    assert seen[1] < 4.2 * seen[0]
