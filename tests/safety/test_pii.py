"""The guard of personal data: what counts as such, what only looks like it, and that none of it is left."""

from __future__ import annotations

import pytest
from guarding import Asked, cut, engine, outcome, severity, streamed
from hypothesis import given
from hypothesis import strategies as st

from llama3.errors import ConfigError
from llama3.plugins.registry import discover
from llama3.safety.redaction import REDACTED
from llama3_plugins.guards.personal_data import KINDS, iban, luhn

asked = Asked("pii")
TOKEN = "q8Zt5vR2nW7yLx3KpD9mB4cTfG6hJ1sA"
FOUND = {
    "email": [
        "bob@example.com", "Bob.Smith+spam@mail.example.co.uk", "b_o-b%x@163.com", "jörg@bücher.example",
        "x@a-b.museum",
    ],
    "phone": [
        "+1 415 555 2671", "+44 20 7946 0958", "+4915112345678", "(415) 555-2671", "415-555-2671", "415.555.2671",
        "+33 (0)1 23 45 67 89", "phone: 030 1234567", "Call 020 7946 0958",
    ],
    "card": [
        "4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111", "5500 0055 5555 5559", "3782 822463 10005",
        "6011000990139424", "3530111333300000", "30569309025904",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "fr14 2004 1010 0505 0001 3M02 606", "NO9386011117947",
    ],
    "ip": [
        "93.184.216.34", "8.8.4.4:53", "server 8.8.8.8", "http://1.2.3.4", "2606:4700:4700::1111",
        "2001:4860:4860::8888",
    ],
    "secret": [
        "AKIAQ3EGRT5YU7IOPLK2", "ghp_" + TOKEN + "abcd", "sk-proj-" + TOKEN, "xoxb-123456789012-abcdefABCDEF",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", TOKEN, "password = hunter2hunter7",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow" + "IBAAKCAQEA\n" * 20 + "-----END RSA PRIVATE KEY-----",
        "postgres://app:s3cr3tpw@db/x", "AIza" + TOKEN + "abc", "API_KEY: 'f3a9c1e7b2d84650'",
    ],
}  # fmt: skip
NOT = [
    "version 1.2.3.4", "v1.2.3.4", "pip install a==12.30.40.50", "Chrome/120.0.0.0", "release 21.30.40.50",
    "see section 3.1.4.1", "1.2.3.4 and 10.0.0.1, 192.168.1.20, 127.0.0.1, 169.254.169.254", "224.300.1.2",
    "at 12:30:45 on 2024-01-15 12:30", "2024-01-15T12:30:45+0100", "00:1A:2B:3C:4D:5E",
    "x = 12345678901234567890", "id = 4111111111111112", "n = 0x4111111111111111", "0.4111111111111111",
    "order number 4111111111111111", "Order #4012888888881881", "order 12345678", "invoice 2024-000123",
    "123e4567-e89b-12d3-a456-426614174000", "d41d8cd98f00b204e9800998ecf8427e",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709", "DE89 3704 0044 0532 0130 01", "XX89 3704 0044 0532 0130 00",
    "@app.route('/x')", "icon@2x.png", "react@18.0.0", "git@github.com:a/b.git", "a @ b.T", "user@localhost",
    "std::vector<int>::iterator", "a::b::c", "dead::beef", "3 + 1234567 - 7654321", "10.1000/182",
    "phone model 12", "ISBN 978-3-16-148410-0", "1,234,567,890", "8:30-9:45", "17/03/2024", "200 300 4000",
    "key = config.api_key", "password = getpass()", "token = os.environ['TOKEN_1']", "API_KEY='your-key-here-12345'",
    "test_http_server_request_handler_returns_404_when_missing", "TestHTTPServerRequestHandlerReturns404WhenMissing",
    "https://example.com/a/b?c=1#d", "path/to/some/Module2/Class3/Method4/file5.py", "9" * 40, "a" * 5000,
]  # fmt: skip
TRUE = [(kind, text) for kind, texts in FOUND.items() for text in texts]


def kinds(text, **fields):
    return {kind for kind, score in asked(text, **fields).categories.items() if score}


def redacted(text):
    return outcome(engine("pii"), text)


@pytest.mark.parametrize(("kind", "text"), TRUE, ids=[text[:30] for _, text in TRUE])
def test_personal_data_is_redacted(kind, text):
    for whole in (text, f"My data: {text}, thanks.", f"({text})", f"x\n{text}\ny"):
        assert kind in kinds(whole)
    core = text.split()[-1] if kind == "secret" and " " in text[:12] else text
    said = redacted(f"Take {text} please")
    assert REDACTED in said
    assert core not in said


@pytest.mark.parametrize("text", NOT, ids=[text[:30] for text in NOT])
def test_what_looks_like_it_passes(text):
    for whole in (text, f"It is {text}, I think.", f"```\n{text}\n```"):
        assert asked(whole).action == "allow", asked(whole)


@pytest.mark.parametrize(
    "disguise",
    [
        lambda t: t.translate({ord("@"): "＠", ord("."): "．"}),
        lambda t: "".join(c + "\u200b" for c in t),
        lambda t: "".join(chr(0xFEE0 + ord(c)) if "!" <= c <= "~" else c for c in t),
        lambda t: t.translate({ord("0") + n: 0x660 + n for n in range(10)}),
        lambda t: t.replace(" ", "\u00a0").replace("-", "\u2011"),
    ],
    ids=["signs", "invisible", "full width", "arabic digits", "spaces"],
)
@pytest.mark.parametrize(("kind", "text"), [(kind, texts[0]) for kind, texts in FOUND.items()])
def test_disguises_are_seen_through_and_spans_are_of_the_text_as_written(disguise, kind, text):
    whole = f"Take {disguise(text)} please"
    assert kind in kinds(whole)
    assert redacted(whole).replace("\u200b", "").replace("\u00a0", " ") == f"Take {REDACTED} please"


def test_each_kind_has_its_own_handling():
    text = "bob@example.com or +1 415 555 2671, card 4111 1111 1111 1111"
    guards = engine("pii", {"phone": "off", "card": "flag"})
    assert guards.decide("output", text).text == f"{REDACTED} or +1 415 555 2671, card 4111 1111 1111 1111"
    assert engine("pii", {"email": "block"}).decide("output", text).blocked
    assert engine("pii", dict.fromkeys(KINDS, "off")).decide("output", text).action == "allow"
    with pytest.raises(ConfigError) as wrong:
        discover().build("guards", "pii", {"email": "drop", "phone": True, "mail": "off"})
    assert len(wrong.value.problems) == 3


def test_a_reason_tells_no_data():
    verdict = Asked("pii", {"email": "block"})("bob@example.com")
    assert verdict.reason == "found email"


@given(st.text("0123456789", min_size=1, max_size=18))
def test_one_wrong_digit_is_found_by_luhn(digits):
    right = [d for d in "0123456789" if luhn(digits + d)]
    assert len(right) == 1
    for at in range(len(digits)):
        other = f"{digits[:at]}{(int(digits[at]) + 1) % 10}{digits[at + 1 :]}{right[0]}"
        assert not luhn(other)


@given(st.integers(0, 10**18 - 1))
def test_check_digits_of_accounts(number):
    account = f"{number:018d}"
    check = 98 - int(f"{account}131400") % 97
    assert iban(f"DE{check:02d}{account}")
    assert not iban(f"DE{(check + 1) % 100:02d}{account}")


NEAR = st.sampled_from(
    [" ", "\n", ", ", ". ", " and ", "word ", "x = 1; ", "\u200b \u00e9\u00df ", "(", ") ", "\ud83e\udd99 ", "=", '"']
)
TEXTS = st.lists(st.sampled_from([text for _, text in TRUE] + NOT[:45]) | NEAR, max_size=14).map(" ".join)


@given(TEXTS)
def test_redaction_leaves_nothing(text):
    verdict = asked(text)
    assert all(0 <= span.start < span.end <= len(text) for span in verdict.spans)
    said = redacted(text)
    for span in verdict.spans:
        assert span.category in KINDS
    assert asked(said).action == "allow", said
    assert (said == text) == (verdict.action == "allow")


@given(
    st.lists(st.sampled_from([text for _, text in TRUE]), min_size=1, max_size=6),
    st.sampled_from([", ", "\n", " and "]),
)
def test_what_stands_beside_other_data_is_redacted_too(texts, between):
    said = redacted(between.join(texts))
    assert not [text for text in texts if text in said and text != REDACTED], said


def test_a_number_behind_a_card_hides_none():
    for text in ("4111 1111 1111 1111 123", "0958 4111 1111 1111 1111", "4111 1111 1111 1111 12/27"):
        assert "1111 1111" not in redacted(text)


@given(
    TEXTS.map(lambda text: text + " word" * 60),
    st.lists(st.integers(1, 300), min_size=1, max_size=4),
    st.sampled_from(["redact", "block"]),
)
def test_a_stream_ends_as_the_whole_text_does(text, sizes, action):
    with engine("pii", dict.fromkeys(KINDS, action)) as guards:
        assert streamed(guards, cut(text, sizes)) == outcome(guards, text)


@given(TEXTS, st.data())
def test_no_beginning_and_no_window_blocks_what_the_whole_does_not(text, data):
    strict = Asked("pii", dict.fromkeys(KINDS, "block"))
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    part = strict(text[begin:end], begins=not begin, ends=False)
    assert severity(part) <= severity(strict(text))


def test_a_long_key_is_never_passed_on_in_part():
    key = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n" * 90 + "-----END PRIVATE KEY-----"
    for sizes in ([5], [64], [199], [1000]):
        assert streamed(engine("pii"), cut(f"{'x ' * 200}{key}\nbye", sizes)) == f"{'x ' * 200}{REDACTED}\nbye"


@pytest.mark.parametrize(
    "text",
    ["1" * 50_000, "1 " * 50_000, "a@" * 50_000, "a." * 50_000, "+1" * 50_000, "1.2.3." * 20_000, "DE89" * 20_000,
     "2001:" * 20_000, "key=" * 20_000, "eyJ" * 20_000, "://" * 20_000, "A1a/" * 20_000, "-" * 50_000, "(" * 50_000,
     "-----BEGIN PRIVATE KEY-----" * 3000, "call " * 20_000, "a@a." + "a-" * 30_000, "１" * 20_000],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_long_hostile_texts_are_judged_in_time(text):
    decision = engine("pii").decide("output", text)
    assert all(verdict.status == "ok" for verdict in decision.verdicts), decision.verdicts
