"""Names of Llama 3's 256 special tokens.

Names differ between Llama 3.0, 3.1 and 3.2 files; ids are the contract: a token's offset from the first special
token says what it is for.
"""

from __future__ import annotations

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
PAD = "<|finetune_right_pad_id|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
END_OF_MESSAGE = "<|eom_id|>"
END_OF_TURN = "<|eot_id|>"
PYTHON_TAG = "<|python_tag|>"

_NAMED = (
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    PAD,
    "<|step_id|>",
    START_HEADER,
    END_HEADER,
    END_OF_MESSAGE,
    END_OF_TURN,
    PYTHON_TAG,
    "<|image|>",
)
NUM_SPECIAL = 256

SPECIAL_TOKENS: tuple[str, ...] = _NAMED + tuple(
    f"<|reserved_special_token_{number}|>" for number in range(2, 2 + NUM_SPECIAL - len(_NAMED))
)
"""Name by offset from the first special id."""

OFFSETS: dict[str, int] = {name: offset for offset, name in enumerate(SPECIAL_TOKENS)}
MIN_SPECIAL = len(_NAMED)
"""With fewer special tokens the chat format cannot be written."""

CHAT_TOKENS = (BEGIN_OF_TEXT, START_HEADER, END_HEADER, END_OF_TURN)
"""Tokens that are Llama 3's by their names; all of its tokenizers have them."""

ROLES = {"bos": BEGIN_OF_TEXT, "eos": END_OF_TEXT, "pad": PAD}
"""Role of a control token -> its name in Llama 3's tokenizers."""
