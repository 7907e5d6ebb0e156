"""The stage `tokenizer`: train a byte-level BPE vocabulary on a sample of the corpus, or take an existing file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from llama3 import _core
from llama3.artifacts import CorpusArtifact, StageOutput, stage
from llama3.config.schema import Config, TokenizerSection
from llama3.data.corpus import Corpus
from llama3.errors import ConfigError
from llama3.tokenizer import Tokenizer

NO_TOKENIZER_FILE = ConfigError.declare(
    "L3-TOK-040",
    "{path} is not a file",
    fix="give a tiktoken .model or a tokenizer.json, or leave the key out to train one",
)
NO_TEXT = ConfigError.declare("L3-TOK-041", "there is no text to train a tokenizer on", fix="name a tokenizer")


class TokenizerOptions(BaseModel):
    """The section `tokenizer`, and the hash of the file it names, so that another content is another request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    section: TokenizerSection
    file_blake3: str | None = None

    @classmethod
    def of(cls, config: Config) -> TokenizerOptions:
        """From the whole config. Raises ConfigError when `tokenizer.path` is no file."""
        path = config.tokenizer.path
        if path is None:
            return cls(section=config.tokenizer)
        if not Path(path).is_file():
            raise NO_TOKENIZER_FILE("tokenizer.path", path=path)
        return cls(section=config.tokenizer, file_blake3=_core.blake3_file(path))


@stage(output="tokenizer")
def tokenizer(corpus: CorpusArtifact | None = None, *, options: TokenizerOptions, out: StageOutput) -> None:
    """Write the tokenizer in the Hugging Face layout; metrics: its size and hash. A `corpus` to train it on is needed
    only where none is named (else ConfigError, L3-TOK-041)."""
    section = options.section
    if section.path is not None:
        made = Tokenizer.load(section.path)
    elif corpus is not None:
        sample = _sample(Corpus(corpus.path), section.sample_bytes)
        made = Tokenizer.train(sample, section.vocab_size, num_special=section.num_special)
    else:
        raise NO_TEXT("tokenizer.path")
    made.save(out.path)
    out.metrics.update(vocab_size=made.vocab_size, tokenizer_hash=made.hash)


def _sample(corpus: Corpus, most: int) -> Iterator[str]:
    """Every k-th training document, evenly over all sources, about `most` bytes in all."""
    total = sum(len(text.encode()) for batch in corpus.documents("train") for text in batch.texts)
    every = max(1, -(-total // most))
    texts = (text for batch in corpus.documents("train") for text in batch.texts)
    return (text for index, text in enumerate(texts) if index % every == 0)
