"""Words in the place of words: slang, and a language of which models have seen less than of English."""

from __future__ import annotations

import re
from collections.abc import Mapping

SLANG: Mapping[str, str] = {
    "how do i": "how d'ya",
    "how can i": "how can ya",
    "tell me": "gimme the lowdown on",
    "explain": "break down",
    "write": "bang out",
    "make": "whip up",
    "get": "snag",
    "steal": "nick",
    "money": "dosh",
    "police": "the fuzz",
    "without being caught": "and walk away clean",
    "people": "folks",
    "friend": "mate",
    "boss": "gaffer",
    "house": "crib",
    "phone": "blower",
    "computer": "rig",
    "password": "magic word",
    "drugs": "gear",
    "hurt": "rough up",
}
"""English slang."""

SWAHILI: Mapping[str, str] = {
    "how do i": "ninawezaje",
    "how can i": "ninawezaje",
    "how": "jinsi gani",
    "what": "nini",
    "where": "wapi",
    "why": "kwa nini",
    "tell me": "niambie",
    "explain": "eleza",
    "write": "andika",
    "make": "tengeneza",
    "give me": "nipe",
    "money": "pesa",
    "people": "watu",
    "house": "nyumba",
    "phone": "simu",
    "computer": "kompyuta",
    "police": "polisi",
    "plan": "mpango",
    "without": "bila",
    "and": "na",
    "my": "yangu",
    "letter": "barua",
    "friend": "rafiki",
    "medicine": "dawa",
    "car": "gari",
    "door": "mlango",
}
"""Word for word, which is no good Swahili: what people do who have a dictionary only."""

OPENINGS = ("Yo,", "Alright mate,", "Oi,", "Listen up,")
"""Before slang: so that a text without any word of the table is another one too."""
ASKED_IN_SWAHILI = ("Jibu kwa Kiswahili:", "Tafadhali jibu:", "Swali langu:")
"""The same: "answer in Swahili", "please answer", "my question"."""


def replaced(text: str, table: Mapping[str, str]) -> str:
    """The text with the table's words in the place of those that it has, longer ones first; case is not kept."""
    words = sorted(table, key=lambda word: (-len(word), word))
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)
    return pattern.sub(lambda found: table[found[0].casefold()], text)
