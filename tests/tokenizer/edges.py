"""Llama 3's split rule and the text on which implementations of split rules differ."""

# Meta's split rule, written out here so that the tests do not take the product's word for it.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)

# Members of every class and the code points on which implementations differ.
EDGES = [
    *"aZsStTrReEvVmMlLdD019 \t\n\r\v\f'!._-/\\\"#{}()<>|",
    *"\u017f\u0130\u0131\u212a\xa0\x85\u1680\u180e\u200b\u200c\u200d\u2028\u2029\u202f\u205f\u3000\ufeff",
    *"½²Ⅷ٣০一〇\u0301\u0308\u093f\u0e31中文字かな한국ñéßЖאعह\U00010400\U0001f600\U0001f468\U0001f3fd\U000e0101",
    *"\x00\x1b\x1c\x1d\x1e\x1f\x7f\ufffd\ufffe\uffff\U0010ffff\ue000",
    *["  ", "\r\n", "\n\n", "'s", "'LL", "'re", " the", "ing", "1234567", "===", "\u200d\u2642\ufe0f"],
]
