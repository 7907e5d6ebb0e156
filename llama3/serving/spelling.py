"""How one token is told: its text, or its bytes where it is a part of a character."""

from __future__ import annotations

from llama3.tokenizer.tokenizer import Tokenizer


def token_id(id: int) -> str:
    """The token by its id, as vLLM writes it where `return_tokens_as_token_ids` asks for that."""
    return f"token_id:{id}"


def spelling(tokenizer: Tokenizer, id: int) -> str:
    """The token's text; `bytes:` and its bytes in hex where they are no text of their own, so that two tokens never
    read alike."""
    if id >= tokenizer.vocab_size:  # a row of the model that no token has
        return f"<id {id}>"
    data = tokenizer.decode_bytes([id])
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
