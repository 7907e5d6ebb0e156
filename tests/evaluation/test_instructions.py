"""Instructions that a program can check: each check takes what it should and nothing near it."""

from __future__ import annotations

import random

import pytest

from llama3_plugins.evaluators.instructions import KINDS, TOPICS, Instruction, instructions

SEED = 5


def constraint(kind):
    """The constraint of a kind with its check, and the random choices that made it."""
    text, check = KINDS[kind](random.Random(SEED))
    return text, Instruction("x", kind, text, check).followed


def number(text):
    return next(int(word) for word in text.replace("exactly", "").split() if word.isdigit())


def quoted(text):
    return text.split('"')[1::2]


def examples(kind, text):
    """(answers that follow, answers that do not)."""
    if kind == "exact_words":
        n = number(text)
        return [" ".join(f"word{i}" for i in range(n))], [" ".join(f"w{i}" for i in range(n + d)) for d in (-1, 1)]
    if kind == "few_words":
        n = number(text)
        return ["One word.", " ".join(f"w{i}" for i in range(n))], [" ".join(f"w{i}" for i in range(n + 1)), "...", ""]
    if kind == "json_object":
        a, b = quoted(text)
        good = f'{{"{a}": "one", "{b}": [2]}}'
        return [good, f"\n {good} "], [f"```json\n{good}\n```", f'{{"{a}": 1}}', f"Here: {good}", good[:-1], "[" * 9999]
    if kind == "bullets":
        n = number(text)
        lines = [f"- point {chr(97 + i)}" for i in range(n)]
        bad = [lines[:-1], [*lines, "- more"], ["Sure:", *lines], [f"* {line[2:]}" for line in lines], ["- "] * n]
        return ["\n".join(lines)], ["\n".join(rows) for rows in bad]
    if kind == "numbered":
        n = number(text)
        lines = [f"{i}. thing" for i in range(1, n + 1)]
        bad = [lines[:-1], [*lines, f"{n + 1}. more"], lines[::-1], [f"{i}) thing" for i in range(1, n + 1)]]
        return ["\n".join(lines)], ["\n".join(rows) for rows in bad]
    fixed = {
        "upper_case": (["THE SEA, AT 7 O'CLOCK!"], ["The SEA", "123 !", "the sea"]),
        "lower_case": (["the sea, at 7 o'clock!"], ["The sea", "123 !"]),
        "no_commas": (["The sea is wide and blue."], ["Wide, blue, cold and very deep.", "The sea."]),
        "quoted": (['"The sea is wide."'], ["The sea", '"The sea', '"The" "sea"', '""']),
        "one_sentence": (["The sea is wide!"], ["The sea is wide.", "The sea! It is wide!", "The sea\nis wide!"]),
    }
    if kind in fixed:
        return fixed[kind]
    words = quoted(text)
    return {
        "keyword": ([f"A {words[0].upper()}, there."], ["Nothing.", f"A {words[0]}ish thing."]),
        "two_keywords": ([f"A {words[0]} and a {words[-1]}."], [f"A {words[0]}.", f"A {words[-1]}."]),
        "opening": ([f"{words[0]} the sea is wide."], [words[0], f"Sure. {words[0]} the sea."]),
        "ending": ([f"The sea is wide. {words[0]}"], [words[0], f"The sea. {words[0]} Bye."]),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_check_is_strict(kind):
    text, followed = constraint(kind)
    good, bad = examples(kind, text)
    for answer in good:
        assert followed(answer), (text, answer)
    for answer in bad:
        assert not followed(answer), (text, answer)


@pytest.mark.parametrize("kind", KINDS)
def test_saying_nothing_or_the_same_again_follows_no_instruction(kind):
    _, followed = constraint(kind)
    for answer in ("", "  \n", "...", "12 345", "THE SEA " * 30, "the sea! " * 30):
        assert not followed(answer)


def test_the_seed_decides_and_all_prompts_are_distinct():
    first, again, other = instructions(300, 1), instructions(300, 1), instructions(300, 2)
    assert [i.prompt for i in first] == [i.prompt for i in again] != [i.prompt for i in other]
    assert len({i.prompt for i in first}) == len({i.id for i in first}) == 300
    assert {i.kind for i in first[: len(KINDS)]} == set(KINDS)
    assert [i.prompt for i in instructions(50, 1)] == [i.prompt for i in first[:50]]
    assert all(any(topic in i.prompt for topic in TOPICS) for i in first)
