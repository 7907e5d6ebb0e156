"""What can be wrong with a tokenizer's file, ids or names.

The first six are raised by the Rust core, which knows them by their codes (core-rs/src/tokenizer/error.rs).
"""

from __future__ import annotations

from llama3.errors import DataError

DAMAGED = DataError.declare(
    "L3-TOK-001",
    "the tokenizer file is damaged",
    why="{detail}",
    fix="get the file again; it is cut short or was changed",
)
UNSUPPORTED = DataError.declare(
    "L3-TOK-002",
    "the file holds another kind of tokenizer",
    why="{detail}",
    fix="use a model with byte-level BPE, whose pre-tokenizer ends with ByteLevel, as Llama 3's",
)
UNKNOWN_ID = DataError.declare(
    "L3-TOK-003", "no token has the id {id}", fix="decode with the tokenizer that made the ids"
)
UNKNOWN_SPECIAL = DataError.declare(
    "L3-TOK-004", "no special token is named {name!r}", fix="`special_tokens` lists the names that exist"
)
TOO_FEW_MERGES = DataError.declare(
    "L3-TOK-005",
    "the text yields a vocabulary of {reached} tokens at most, {wanted} were asked for",
    fix="train on more text or ask for a smaller vocabulary",
)
TOO_LARGE = DataError.declare("L3-TOK-006", "a size is out of bounds", why="{detail}", fix="stay within the bounds")
UNREADABLE = DataError.declare(
    "L3-TOK-007", "the tokenizer cannot be read", why="{reason}", fix="name the tokenizer's file or its directory"
)
TAKEN_NAME = DataError.declare(
    "L3-CLI-042",
    "the added token {name!r} has the id {id}, a token of the vocabulary has its name and the id {base}",
    why="in a tokenizer's file a name has one id",
    fix="give it that id, or another name",
)
NO_GGUF_NAME = DataError.declare(
    "L3-TOK-015",
    "GGUF has no name for the way this tokenizer splits or marks texts",
    why="none of the names known gives the same tokens: {known}",
    fix="export it to a layout that holds tokenizer.json, such as hf",
)
UNKNOWN_RULE = DataError.declare(
    "L3-TOK-011",
    "tokenizer.ggml.pre, the name of the split rule, is {name!r}",
    why="known: {known}",
    fix="use the model's Hugging Face directory, whose tokenizer.json holds the rule itself",
)
NO_END = DataError.declare(
    "L3-TOK-012", "there is no token that ends a text", fix="name the eos_token in tokenizer_config.json"
)
NO_CONTROL = DataError.declare(
    "L3-TOK-013", "there is no special token for {role}", fix="use a tokenizer that has the control tokens of Llama 3"
)
