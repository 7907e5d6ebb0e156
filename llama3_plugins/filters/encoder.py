"""A sequence classifier (RoBERTa and its kind) as a costly scorer of documents, in batches of about equal length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama3.errors import ConfigError
from llama3.filters import encoder_hash, load_encoder, token_batches

NO_LABEL = ConfigError.declare("L3-CLS-042", "the encoder has no label {label!r}", fix="its labels are {known}")

CHARACTERS_PER_TOKEN = 16
"""More of a document than so many per token is not even cut into tokens."""


class Encoder:
    """Gives the probability of a label; the same document has the same one in whatever batch, to rounding."""

    def __init__(self, folder: str, label: str, tokens: int) -> None:
        """Loads from the folder alone, safetensors only. Raises ConfigError (L3-CLS-040 to 042)."""
        self.tokenizer, self.model = load_encoder(folder, "sequence classifier")
        known = {str(name): int(number) for name, number in self.model.config.label2id.items()}
        if label not in known:
            raise NO_LABEL(folder, label=label, known=sorted(known))
        self.number, self.tokens = known[label], tokens
        self.hash = encoder_hash(folder)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [D]."""
        import torch

        found_D = np.zeros(len(texts))
        if not texts:
            return found_D
        begun = [text[: CHARACTERS_PER_TOKEN * self.tokens] for text in texts]
        ids = self.tokenizer(begun, truncation=True, max_length=self.tokens)["input_ids"]
        for batch in token_batches([len(row) for row in ids]):
            inputs = self.tokenizer.pad({"input_ids": [ids[d] for d in batch]}, return_tensors="pt")
            with torch.inference_mode():
                logits = self.model(**inputs).logits.double()
            share = logits.sigmoid()[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, self.number]
            found_D[batch] = share.numpy()
        return found_D
