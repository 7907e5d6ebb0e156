"""Which part of an answer counts."""

from __future__ import annotations

import pytest

from llama3.tasks.extraction import LONGEST, extract


@pytest.mark.parametrize(
    ("answer", "reference", "extracted"),
    [
        ("42", "42", "42"),
        (" 42.\n", "42", "42"),
        ("17 + 25 is\n42\n\n", "42", "42"),
        ("First: 7.\nThe answer: 42", "42", "42"),
        ("**Answer:** 42.", "42", "42"),
        ("so \\boxed{\\frac{1}{2}} it is", "1/2", "\\frac{1}{2}"),
        ("<answer>7</answer> no, <answer> 42 </answer> I think", "42", "42"),
        ("It ends. So.", "So.", "It ends. So."),
        ("Here:\n```text\n1 2\n3 4\n```\nDone", "1 2\n3 4", "1 2\n3 4"),
        ("1 2\n3 4\n", "1 2\n3 4", "1 2\n3 4"),
        ("", "42", ""),
        ("\n \n", "42", ""),
        ("\\boxed{never closed", "x", "never closed"),
        ("x" * LONGEST + "\n42", "42", ""),
    ],
)
def test_the_result_of_an_answer(answer, reference, extracted):
    assert extract(answer, reference) == extracted
