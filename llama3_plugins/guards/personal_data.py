"""Personal data in a text: what looks like it and passes the checks that the real thing passes (Luhn's and the IBAN's
check digits, issuers and lengths of cards, country codes, ranges of addresses), and stands where it would stand.

Every repetition is bounded, so that time is linear in the text. No match but a secret is longer than 160 characters.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from llama3_plugins.guards.secrets import secrets_in

Kind = Literal["email", "phone", "card", "iban", "ip", "secret"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class PersonalDatum:
    """Characters `start` to `end` of the text as written. `grows`: more text makes it longer at most."""

    kind: Kind
    start: int
    end: int
    grows: bool = False


def personal_data(text: str, kinds: frozenset[Kind] = frozenset(KINDS)) -> Iterator[PersonalDatum]:
    """All of these kinds, kind by kind; they may overlap."""
    folded = fold(text)
    for kind in KINDS:
        if kind in kinds:
            for start, end, grows in _FIND[kind](folded.text):
                yield PersonalDatum(kind, folded.origin(start), folded.origin(end - 1) + 1, grows)


@dataclass(frozen=True, slots=True)
class Folded:
    """A text in plain signs."""

    text: str
    odd: tuple[tuple[int, int, int], ...] = ()
    """Characters that became none or several, ascending: (where in `text`, how many, where in the text as written)."""

    def origin(self, place: int) -> int:
        """The place in the text as written of the character that gave the one at `place`."""
        number = bisect_right(self.odd, place, key=lambda odd: odd[0])
        if not number:
            return place
        first, count, origin = self.odd[number - 1]
        return origin + max(0, place - first - count + 1)


def fold(text: str) -> Folded:
    """The text in plain signs: compatibility forms, digits of other scripts, dashes and spaces; invisible ones go.

    Unlike `llama3.guards.normalise` it joins no spaced letters: the digits of an address are such.
    """
    if text.isascii():
        return Folded(text)
    odd: list[tuple[int, int, int]] = []
    shift = 0

    def plain(found: re.Match[str]) -> str:
        nonlocal shift
        pieces = [_plain(character) for character in found[0]]
        for place, piece in enumerate(pieces, found.start()):
            if len(piece) != 1:
                odd.append((place + shift, len(piece), place))
                shift += len(piece) - 1
        return "".join(pieces)

    return Folded(_NOT_ASCII.sub(plain, text), tuple(odd))


_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


@lru_cache(maxsize=1 << 16)
def _plain(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    plain = unicodedata.normalize("NFKC", character)
    return character if len(plain) > _LONGEST_FORM else "".join(map(_plain_sign, plain))


_LONGEST_FORM = 4
"""Characters that one stands for; a text of those that stand for whole phrases would become eighteen times as long."""


def _plain_sign(character: str) -> str:
    return {"Cf": "", "Pd": "-", "Zs": " "}.get(unicodedata.category(character), character)


Finds = Iterator[tuple[int, int, bool]]

_LABEL = r"[^\W_](?:[\w-]{0,20}[^\W_])?"
_EMAIL = re.compile(
    rf"(?<![\w.+%@-])([^\W_](?:[\w.+%-]{{0,62}}[\w])?)@((?:{_LABEL}\.){{1,4}}[^\W\d_]{{2,18}})(?![\w@])"
)
_FILE_TYPES = frozenset(
    [
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "ico",
        "css",
        "js",
        "mjs",
        "ts",
        "py",
        "rs",
        "go",
        "so",
        "html",
        "htm",
        "json",
        "md",
        "txt",
        "lock",
    ]
)


_EMAIL_REACH = (65, 160)
"""Characters before an @ and behind it that an address may have, and what stands around it."""


def _emails(text: str) -> Finds:
    for match in _around_ats(text):
        labels = match[2].lower().split(".")
        is_version = len(labels) > 2 and labels[0].isdigit() and labels[1].isdigit()
        is_remote = match[1] == "git" and text[match.end() : match.end() + 1] in (":", "/")
        if labels[-1] not in _FILE_TYPES and not is_version and not is_remote:
            yield match.start(), match.end(), False


def _around_ats(text: str) -> Iterator[re.Match[str]]:
    """All matches of _EMAIL, in order. It is tried around every @ only: nearly all texts have few or none."""
    before, behind = _EMAIL_REACH
    if text.count("@") * (before + behind) > len(text):  # what stands around them is all of it, and more than once
        yield from _EMAIL.finditer(text)
        return
    end, at = 0, text.find("@")
    while at >= 0:
        match = _EMAIL.search(text, max(end, at - before), at + behind)
        if match and match.end(1) == at:
            yield match
            end = match.end()
        at = text.find("@", at + 1)


_CODES = (  # of countries
    r"(?:1|7|2[07]|2[1-689]\d|3[0-469]|3[578]\d|4[013-9]|42\d|5[1-8]|5[09]\d|6[0-6]|6[7-9]\d|8[1246]|8[0578]\d"
    r"|9[0-58]|9[679]\d)"
)
_PHONE = re.compile(
    r"(?<![\w+])(?:\+|(?<!\d[ .-])\b00(?=\d{1,3}[ ./(-]))"
    + _CODES
    + r"(?:[ ./-]{0,2}\(?\d{1,5}+\)?){2,6}(?![\w]|[.,]\d)"
)
_AMERICAN_PHONE = re.compile(
    r"(?<![\w.+/-])(?:\([2-9]\d\d\) ?[2-9]\d\d[-. ]|[2-9]\d\d(?P<between>[-.])[2-9]\d\d(?P=between))\d{4}(?![\w-]|\.\d)"
)
_CALLED_PHONE = re.compile(
    r"(?i)\b(?:tele?phone|tel|phone|mobile|cell|fax|call|dial|ring|sms|whatsapp|text me|handy|mobil|portable)\b"
    r"(?:[ \t:.#=-]{0,3}\b(?:number|no|nr|is|me|us|him|her|them|at|on|under|or)\b){0,3}[ \t:.#=-]{0,3}"
    r"(\+?\(?\d[\d ()./-]{5,20}\d)(?![\w]|[.:]\d)"
)


def _phones(text: str) -> Finds:
    for match in _PHONE.finditer(text):
        number = _no_longer(match[0])
        if 8 <= _count_digits(number) <= 15:
            yield match.start(), match.start() + len(number), False
    for match in _AMERICAN_PHONE.finditer(text):
        yield match.start(), match.end(), False
    for match in _CALLED_PHONE.finditer(text):
        number = _no_longer(match[1])
        if 7 <= _count_digits(number) <= 15 and not _DATE.fullmatch(number):
            yield match.start(1), match.start(1) + len(number), False


def _no_longer(number: str) -> str:
    """As many groups of digits as a phone number may have: another number may stand behind it."""
    while _count_digits(number) > 15 and (groups := _LAST_GROUP.match(number)):
        number = groups[1]
    return number


_LAST_GROUP = re.compile(r"(.*\d\)?)[ ./-]+\(?\d+\)?$")
_DATE = re.compile(r"\d{4}[-./ ]\d{1,2}[-./ ]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ]\d{2,4}")


def _count_digits(text: str) -> int:
    return sum(map(str.isdigit, text))


_CARD = re.compile(
    r"(?<![\w.])(?<!\w-)(?=("  # looked ahead at: the groups of another number may stand before its own
    r"\d{4}(?P<four>[ -])\d{4}(?P=four)\d{4}(?P=four)\d{4}(?:(?P=four)\d{3})?(?![\w]|-\w|\.\d)"
    r"|\d{4}(?P<six>[ -])\d{6}(?P=six)\d{4,5}(?![\w]|-\w|\.\d)|\d{12,19}(?![\w]|-\w|\.\d)))"
)
_ISSUED = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d|62\d\d|35(?:2[89]|[3-8]\d))\d{12,15}|3(?:0[0-5]|[68]\d)\d{11}"
)
_OTHER_NUMBER = re.compile(
    r"(?i)\b(?:order|invoice|tracking|serial|ticket|id|ids|timestamp|time|seed|hash|size|bytes|offset|isbn|ean|sku"
    r"|part|case|reference|ref)\b[^\w]{0,4}(?:(?:number|no|nr|id|code|is)\b[^\w]{0,4}){0,2}$"
)


def _cards(text: str) -> Finds:
    for match in _CARD.finditer(text):
        number = match[1]
        if match["four"] and not _is_card(number):
            number = number[:19]  # three digits behind it may be something else
        is_bare = number.isdigit()
        if not _is_card(number) or (is_bare and _OTHER_NUMBER.search(text[max(0, match.start() - 40) : match.start()])):
            continue
        yield match.start(), match.start() + len(number), False


def _is_card(number: str) -> bool:
    digits = number.replace(" ", "").replace("-", "")
    return _ISSUED.fullmatch(digits) is not None and luhn(digits)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it."""
    doubled = digits[-2::-2].translate(_DOUBLED)
    return (sum(map(int, doubled)) + sum(map(int, digits[-1::-2]))) % 10 == 0


_DOUBLED = str.maketrans("0123456789", "0246813579")
"""Of twice each digit the sum of digits."""


_IBAN = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}\d\d(?:[ -]?[A-Za-z0-9]){11,30}))")
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "NO", "16": "BE", "18": "DK FO FI GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU MN XK",
        "21": "HR LV LI CH", "22": "BG BH CR DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG", "25": "LY PT ST", "26": "IS TR", "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO EG GT HU LB NI PL SV", "29": "BR PS QA UA", "30": "JO KW MU", "31": "MT SC", "32": "LC",
        "33": "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def _ibans(text: str) -> Finds:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[1][:2].upper(), 0)
        places = [i for i, character in enumerate(match[1]) if character.isalnum()][:length]
        if not length or len(places) < length:
            continue
        end = match.start() + places[-1] + 1
        if not text[end : end + 1].isalnum() and iban("".join(match[1][i] for i in places)):
            yield match.start(), end, False


def iban(account: str) -> bool:
    """Whether the check digits of an account number without spaces are right (ISO 13616)."""
    return int("".join(str(int(character, 36)) for character in account[4:] + account[:4])) % 97 == 1


_IPV4 = re.compile(
    r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w]|\.\d|-[A-Za-z])"
)
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])")
_IS_VERSION = re.compile(
    r"(?i)(?:\b(?:versions?|ver|v|releases?|build|rev|revision|firmware|driver|section|chapter|clause|oid)\b[^\w\n]{0,4}"
    r"|(?:[=<>~^!]=|[~^])\s?|[a-z][\w.]*/)$"
)
_IS_ADDRESS = re.compile(
    r"(?i)(?:\b(?:ips?|ipv4|host|hosts|server|address|ping|ssh|curl|dns|nameserver|gateway|from|client|peer|remote)\b"
    r"[^\w\n]{0,4}(?:(?:is|at|to|address)\b[^\w\n]{0,3})?|://|@)$"
)


def _addresses(text: str) -> Finds:
    for match in _IPV4.finditer(text):
        before, after = text[max(0, match.start() - 30) : match.start()], text[match.end() : match.end() + 2]
        is_small = all(int(part) <= 20 for part in match[0].split("."))
        called = _IS_ADDRESS.search(before) or re.match(r"[:/]\d", after)
        if _is_public(match[0]) and (called or not (is_small or _IS_VERSION.search(before))):
            yield match.start(), match.end(), False
    for match in _IPV6.finditer(text):
        if _is_public(match[0]):
            yield match.start(), match.end(), False


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


_FIND: dict[Kind, Callable[[str], Finds]] = {
    "email": _emails,
    "phone": _phones,
    "card": _cards,
    "iban": _ibans,
    "ip": _addresses,
    "secret": secrets_in,
}
