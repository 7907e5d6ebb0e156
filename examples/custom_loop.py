"""A training loop of your own: the model and the log-prob engine, with nothing around them.

python examples/custom_loop.py [STEPS]
"""

import sys

import torch

from llama3.algorithms import Batch, score
from llama3.inference import Llama
from llama3.model import ModelConfig, Transformer, init_weights
from llama3.tokenizer import Tokenizer

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 150
texts = [f"{n} plus {n + 1} is {2 * n + 1}.\n" for n in range(400)]
tokenizer = Tokenizer.train(texts, vocab_size=400, num_special=16)
config = ModelConfig(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=128, vocab_size=400, max_seq_len=128)
model = init_weights(Transformer(config), seed=0)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

generator = torch.Generator().manual_seed(0)
for step in range(1, steps + 1):
    # Documents are packed into one row; none sees another. Every token but the first of each is a target.
    chosen = torch.randint(len(texts), (16,), generator=generator).tolist()
    documents = [tokenizer.encode(texts[i], bos=True, eos=True) for i in chosen]
    starts = [sum(map(len, documents[:n])) for n in range(len(documents))]
    batch = Batch.of_documents([token for document in documents for token in document.tolist()], starts)
    loss = -score(model, batch, {"logps"}).logps_M.mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step == 1 or step % 50 == 0:
        print(f"step {step}: loss {loss.item():.3f}")

llama = Llama(model, tokenizer)
print("12 plus 13" + llama.generate("12 plus 13", max_tokens=12, temperature=0, stop="\n"))
