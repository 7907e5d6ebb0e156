"""The token loader alone: rows of tokens as a pure function of (shards, seed, row), so that any run can be resumed.

python examples/loader_alone.py runs/quickstart/artifacts/shard        the shards that a run has made
"""

import sys

from llama3.data import TokenLoader

loader = TokenLoader(sys.argv[1], seq_len=32, seed=1)
print(f"sources: {', '.join(loader.sources)}")

batches = loader.batches(4)
first, second = next(batches), next(batches)
rows, length = first.tokens.shape
print(f"a batch: {rows} rows of {length} tokens, cut into {len(first.doc_ids)} documents")

# Row i is the same whoever asks for it, and whatever was read before.
assert (loader.rows(4, 4).tokens == second.tokens).all()

# A state of a few numbers resumes the stream where it was; two ranks share it without overlap.
state = loader.state_dict()
third = next(batches)
resumed = TokenLoader(sys.argv[1], seq_len=32, seed=1)
resumed.load_state_dict(state)
assert (next(resumed.batches(4)).tokens == third.tokens).all()
halves = [next(TokenLoader(sys.argv[1], seq_len=32, seed=1).batches(4, rank=rank, world=2)).tokens for rank in (0, 1)]
assert sorted(map(tuple, [*halves[0].tolist(), *halves[1].tolist()])) == sorted(map(tuple, first.tokens.tolist()))
print("resumed and shared: the same rows")
