"""Verifiable tasks: deterministic, distinct, split by instance, and their own references pass."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.errors import DataError
from llama3.tasks import Task, generate, split_of
from llama3.tasks.families import FAMILIES, tasks
from llama3_plugins.rewards.verifiable import Verifiable, VerifiableOptions


def test_same_arguments_give_the_same_tasks():
    assert tasks("train", 200, seed=7) == tasks("train", 200, seed=7)
    assert tasks("train", 200, seed=7) != tasks("train", 200, seed=8)


def test_splits_are_disjoint_in_instances_and_in_prompts_whatever_the_seeds():
    train = [task for seed in range(3) for task in tasks("train", 4000, seed)]
    held_out = [task for seed in range(3) for task in tasks("held_out", 1000, seed)]
    assert {task.id for task in train}.isdisjoint(task.id for task in held_out)
    assert {task.prompt for task in train}.isdisjoint(task.prompt for task in held_out)


@given(st.integers(0, 10**6), st.sampled_from(FAMILIES))
@settings(max_examples=60)
def test_the_split_depends_on_the_instance_and_not_on_its_wording(seed, family):
    args = family.draw(random.Random(seed))
    same = [family.task(args, template) for template in family.templates]
    assert len({task.id for task in same}) == 1
    for split in ("train", "held_out"):
        drawn = {task.id for task in generate([family], split, 16, seed)}
        assert split == split_of(family.name, args) or same[0].id not in drawn


def test_every_family_has_enough_instances_for_both_splits():
    for family in FAMILIES:
        assert len(generate([family], "train", 50, seed=0)) == 50, family.name
        assert len(generate([family], "held_out", 16, seed=0)) == 16, family.name


def test_families_take_turns():
    counts = Counter(task.family for task in tasks("held_out", 10 * len(FAMILIES), seed=3))
    assert counts == {family.name: 10 for family in FAMILIES}


def test_every_reference_passes_its_own_check():
    sample = tasks("train", 12 * len(FAMILIES), seed=5) + tasks("held_out", 4 * len(FAMILIES), seed=5)
    scores = Verifiable(VerifiableOptions()).score(
        [task.prompt for task in sample], [task.reference for task in sample], [task.to_json() for task in sample]
    )
    assert scores == [1.0] * len(sample)


def test_the_answer_to_another_instance_fails():
    """Checks tell instances apart, equal answers to different questions aside."""
    for family in FAMILIES:
        first, *others = generate([family], "train", 30, seed=2)
        wrong = [task for task in others if task.reference != first.reference]
        scores = Verifiable(VerifiableOptions()).score(
            [first.prompt] * len(wrong), [task.reference for task in wrong], [first.to_json()] * len(wrong)
        )
        assert wrong
        assert sum(scores) == 0, (family.name, [t.reference for t, s in zip(wrong, scores, strict=True) if s])


def test_json_round_trip_and_bad_rows():
    for task in tasks("train", 50, seed=1):
        assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    with pytest.raises(DataError, match="not a verifiable task"):
        Task.from_json({"id": "x", "family": "f", "prompt": "p", "reference": "r", "check": {"type": "Magic"}})


def test_asking_for_more_tasks_than_exist_is_an_error():
    small = next(family for family in FAMILIES if family.name == "arithmetic.add")
    with pytest.raises(DataError, match="distinct held_out tasks exist"):
        generate([small], "held_out", 10_000, seed=0)
