"""Text to token ids and back: byte-level BPE with the split rule of its file, and the chat format on top of it.

`Tokenizer` loads, trains and saves tokenizers and hands out NumPy arrays; the work is done in Rust. `chat` turns
messages into ids in such a way that no content ever becomes a control token.
"""

from llama3.tokenizer.chat import CHAT_TEMPLATE, Dialog, Message, Rendered, parse, render, stop_ids
from llama3.tokenizer.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "Dialog",
    "Message",
    "Rendered",
    "StreamDecoder",
    "Tokenizer",
    "parse",
    "render",
    "stop_ids",
]
