"""curate, tokenizer and shard in a run directory; as a script, killed at random moments until the kills are spent.

python shard_child.py RUN TEXTS                    runs once and prints the hashes
python shard_child.py RUN TEXTS SEED KILLS         forks children and kills them, then runs to the end
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from llama3.artifacts import Artifact, CorpusArtifact, StageOutput, stage
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.config.schema import Config
from llama3.data import shards
from llama3.data.corpus import Corpus
from llama3.data.curate import CurateOptions, curate
from llama3.tokenizer import Tokenizer


@stage(output="tokenizer")
def train_tokenizer(corpus: CorpusArtifact, *, out: StageOutput) -> None:
    texts = [text for batch in Corpus(corpus.path).documents() for text in batch.texts]
    Tokenizer.train(texts, vocab_size=400, num_special=16).save(out.path)


def config(texts: Path) -> Config:
    folders = sorted(path for path in texts.iterdir() if path.is_dir())
    sources = [{"name": "files", "path": str(path), "source": path.name} for path in folders]
    return Config.model_validate({"data": {"sources": sources, "held_out": 0.1}})


def run(path: Path, texts: Path) -> dict[str, Artifact]:
    options = config(texts)
    with RunDir(path, Display.silent()) as run_dir:
        corpus = run_dir.execute(curate, {}, CurateOptions.of(options))
        tokenizer = run_dir.execute(train_tokenizer, {"corpus": corpus})
        made = run_dir.execute(shards.shard, {"corpus": corpus, "tokenizer": tokenizer}, shards.ShardOptions())
    return {"corpus": corpus, "tokenizer": tokenizer, "shards": made}


def killed_run(path: Path, texts: Path, seed: int, kills: int) -> None:
    draw = random.Random(seed)
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            run(path, texts)
            os._exit(0)
        time.sleep(draw.uniform(0, 0.5))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    shards.SHARD_TOKENS = 2000
    where, given = Path(sys.argv[1]), Path(sys.argv[2])
    if len(sys.argv) > 3:
        killed_run(where, given, int(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps({role: artifact.hash for role, artifact in run(where, given).items()}))
