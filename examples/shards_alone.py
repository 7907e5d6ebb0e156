"""Token shards alone: your texts as shards, those as files of Megatron and datatrove, and such files read again.

python examples/shards_alone.py [FILE ...]        every file is a text; without files, a few made here
"""

import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from llama3.data import DatatroveFile, MegatronFile, ShardWriter, TokenLoader, export_tokens, portions
from llama3.tokenizer import Tokenizer

if paths := sys.argv[1:]:
    texts = [Path(path).read_text(encoding="utf-8", errors="replace") for path in paths]
else:
    texts = [" ".join(f"sentence {n} of text {number}" for n in range(40)) for number in range(9)]
tokenizer = Tokenizer.train(texts, 300, num_special=16)

with tempfile.TemporaryDirectory() as folder:
    place = Path(folder)
    with ShardWriter(place / "shards", tokenizer) as writer:
        writer.add(texts, source="mine")
    print(f"shards: {TokenLoader(place / 'shards', seq_len=32)}")

    export_tokens(place / "shards", "megatron", place / "megatron")
    export_tokens(place / "shards", "datatrove", place / "datatrove")
    for file in (
        MegatronFile.open(place / "megatron" / "0000-mine"),
        DatatroveFile.open(place / "datatrove" / "0000-mine.ds"),
    ):
        documents = [ids[a:b] for ids, starts in portions(file) for a, b in pairwise(starts)]
        assert [tokenizer.decode(ids, skip_special=True) for ids in documents] == texts
        print(f"{file.path.name}: the same {file.documents} documents, {file.tokens:,} tokens")
