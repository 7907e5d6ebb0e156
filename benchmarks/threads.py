"""How OpenMP's waiting affects training, alone and beside a busy program. Run: make bench-threads.

Trains a quickstart-sized model for a few steps in fresh processes, since OpenMP reads its policy when torch loads.
"""

from __future__ import annotations

import os
import subprocess
import sys

from common import machine, write_results

CHILD = """
import sys, time, torch
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.model.build import init_weights

torch.set_num_threads(int(sys.argv[1]))
model = Transformer(ModelConfig(192, 4, 3, 1, 512, 2048, rope_theta=10_000.0, tied=True, max_seq_len=512))
init_weights(model, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
batch = Batch.of_documents(torch.randint(0, 2048, (2048,)), torch.arange(0, 2048, 512, dtype=torch.int32))
for step in range(int(sys.argv[2])):
    if step == 2:
        started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = -score(model, batch).logps_M.mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print((int(sys.argv[2]) - 2) * 2048 / (time.perf_counter() - started))
"""
SETTINGS = {
    "sleep while waiting (llama3's default)": ({"OMP_WAIT_POLICY": "PASSIVE"}, 2),
    "spin while waiting (OpenMP's default)": ({"OMP_WAIT_POLICY": ""}, 2),
    "one thread": ({}, 1),
}
STEPS = 12


def tokens_per_second(setting: tuple[dict[str, str], int]) -> float:
    """Of a fresh process."""
    extra, threads = setting
    environment = {k: v for k, v in (os.environ | extra | {"OMP_NUM_THREADS": str(threads)}).items() if v}
    # Torch is imported before llama3, which would set its own default.
    command = [sys.executable, "-c", "import torch\n" + CHILD, str(threads), str(STEPS)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def measure() -> list[dict[str, object]]:
    rows = []
    for neighbours in (0, 1):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
        try:
            for name, setting in SETTINGS.items():
                rows.append(
                    {"setting": name, "busy programs": neighbours, "tokens/s": round(tokens_per_second(setting))}
                )
        finally:
            for process in busy:
                process.kill()
    return rows


if __name__ == "__main__":
    found = measure()
    for row in found:
        print(*row.values(), sep="\t")
    print("machine:", machine())
    print("written to", write_results("threads", {"command": "make bench-threads", "rows": found}))
