"""Gopher's rules: each one alone rejects what it is for, and neither eats ordinary prose nor ordinary code."""

from __future__ import annotations

import inspect

import pytest
from data_texts import prose

from llama3.data.documents import DocumentBatch, Filter, Judgement
from llama3.errors import ConfigError
from llama3.plugins.registry import discover


def judge(text: str, kind: str = "prose", language: str = "en", **options: object) -> tuple[bool, str, float]:
    gopher = discover().build("filters", "gopher", options)
    assert isinstance(gopher, Filter)
    batch = DocumentBatch.of([text], source="s", urls=["u"], kind=[kind], language=language).with_features()
    judged: Judgement = gopher.judge(batch)
    return bool(judged.keep_D[0]), judged.reason_D[0], float(judged.score_D[0])


GOOD = prose(1, 300)
LINES = "\n".join(f"{prose(n, 12)}" for n in range(40))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (prose(1, 49), "words"),
        (" ".join(f"the of w{n}" for n in range(40_000)), "words"),
        (" ".join(f"{n:x} the a b c d e of" for n in range(0, 3000, 7)), "mean_word_length"),
        (GOOD.replace(".", " # # #"), "hashes_per_word"),
        (GOOD.replace(" ", "... ", 200), "ellipses_per_word"),
        ("\n".join(f"- {line}" for line in LINES.splitlines()), "bullet_line_fraction"),
        (
            "\n".join(line + "..." * (n % 2) for n, line in enumerate(LINES.splitlines())),
            "ellipsis_line_fraction",
        ),
        (" ".join(f"{word} {n} ==" for n, word in enumerate(GOOD.split())), "alpha_token_fraction"),
        (" ".join(f"lorem{n} ipsum{n}" for n in range(60)), "stop_words"),
        (GOOD + "\n" + "\n".join(f"{prose(n % 20, 4)}" for n in range(40)), "duplicate_line_fraction"),
        (GOOD + " " + "spam of the day " * 40, "top_4gram_char_fraction"),
        (GOOD + " " + " ".join(GOOD.split()[:120]), "duplicate_10gram_char_fraction"),
    ],
)
def test_each_rule(text: str, reason: str) -> None:
    keep, why, score = judge(text)
    assert (keep, score > 1) == (False, True)
    if why != reason:  # several rules fire together: this one must be among them
        limits = discover().build("filters", "gopher", {}).limits["prose"]
        without_others: dict[str, object] = {name: {} for name in limits if name != reason}
        assert judge(text, prose=without_others)[:2] == (False, reason)


def test_the_limit_itself_is_good() -> None:
    assert judge(prose(1, 50))[0]
    assert judge(prose(1, 50), prose={"words": {"min": 50}})[2] == 1.0
    keep, reason, score = judge(prose(1, 100), prose={"words": {"max": 50}})
    assert (keep, reason, score) == (False, "words", 2.0)


def test_code_has_its_own_rules() -> None:
    code = inspect.getsource(inspect)
    assert judge(code, kind="code", language="python")[0]
    table = "DATA = [\n" + "\n".join(", ".join(str(n * m) for m in range(15)) for n in range(90)) + "]"
    digits = sum(map(str.isdigit, table)) / len(table)
    assert judge(table, kind="code", language="python") == (False, "digit_fraction", pytest.approx(digits / 0.3))
    minified = code.replace("\n", ";")
    assert judge(minified, kind="code", language="python")[1] in ("max_line_length", "mean_line_length")


def test_rules_of_english_spare_other_languages() -> None:
    russian = ". ".join(f"слово{n} предложение{n} текст{n} книга{n}" for n in range(40))
    assert judge(russian, language="ru")[0]
    assert judge(russian, language="en")[1] == "stop_words"


def test_unknown_statistics_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'stop_words'"):
        judge(GOOD, prose={"stopwords": {"min": 1}})
    with pytest.raises(ConfigError, match="mim"):
        judge(GOOD, prose={"words": {"mim": 1}})
