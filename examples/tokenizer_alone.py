"""The tokenizer alone: train one, encode and decode, a dialog as token ids, a directory that `transformers` loads.

python examples/tokenizer_alone.py
"""

import tempfile

from llama3.tokenizer import Tokenizer, render

texts = [f"Line {n} says that {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(500)]
tokenizer = Tokenizer.train(texts, vocab_size=500, num_special=16)

ids = tokenizer.encode(texts[7], bos=True)
print(f"{len(texts[7])} characters, {len(ids)} tokens: {[tokenizer.decode([i]) for i in ids[1:6]]} ...")
assert tokenizer.decode(ids[1:]) == texts[7]

# Whatever a text says, it never becomes a control token unless you ask for it.
assert len(tokenizer.encode("<|eot_id|>")) > 1
assert len(tokenizer.encode("<|eot_id|>", allowed_special="all")) == 1

dialog = [{"role": "user", "content": "What is 6 times 7?"}, {"role": "assistant", "content": "42"}]
rendered = render(tokenizer, dialog)
learnt = rendered.ids[rendered.is_target]
print(f"a dialog of {len(rendered.ids)} tokens, of which {len(learnt)} are learnt")

with tempfile.TemporaryDirectory() as folder:
    tokenizer.save(folder)
    assert Tokenizer.load(folder).hash == tokenizer.hash
print("saved and loaded: the same tokenizer")
