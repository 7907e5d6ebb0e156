"""What the steps of a training read, and that they learnt from it: rows, documents and texts, from the shards and the
run's own record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llama3.artifacts.files import read_json_lines
from llama3.artifacts.lock import RunLock
from llama3.artifacts.logbook import EVENTS
from llama3.data.corpus import CORPUS_IN_RUN, DOCUMENTS
from llama3.data.loader import TokenRows
from llama3.data.packing import FILL_ID
from llama3.data.plan import IN_RUN, TokenPlan
from llama3.data.tables import Table
from llama3.errors import ArtifactError, ConfigError, DataError
from llama3.model.batch import Batch
from llama3.tokenizer import Tokenizer
from llama3.training.checkpoint import CheckpointStore
from llama3.training.effective_time import Account, accounts, witnessed
from llama3.training.leaving_out import ask
from llama3.training.ledger import data_step
from llama3.training.pretrain import READS, PretrainOptions, dataset_of
from llama3.training.reliability import content_of

NOT_TRAINED = ArtifactError.declare(
    "L3-DAT-241",
    "no training called {key!r} has begun in this run",
    why="those that have: {known}",
    fix="give one of them by --stage",
)
NO_RUN = ArtifactError.declare("L3-DAT-284", "there is no run here", fix="give the folder of a run, such as runs/mine")
NO_SHARDS = ArtifactError.declare("L3-DAT-242", "the shards it was trained on are no longer in the run")
NO_SUCH_STEP = ConfigError.declare("L3-DAT-243", "the training has the steps 1 to {total}")
NO_ID = ConfigError.declare("L3-DAT-244", "{given!r} is no id", fix="give at least the first 16 hexadecimal digits")
FINISHED = ConfigError.declare(
    "L3-DAT-245",
    "this training is finished",
    why="it goes on from nowhere, and its model has learnt from that data",
    fix="remove the artifact to train again, or leave the data out of the sources",
)
NO_CHECKPOINT = DataError.declare(
    "L3-DAT-246",
    "step {step} is done, and there is no checkpoint before it to go on from",
    why="there are those of steps: {known}",
    fix="leave out later steps only, or train again with a lower checkpoint_every",
)


def _pretraining(keys: Iterable[str]) -> str:
    """Of trainings in the order in which they began."""
    known = list(keys)
    of_sizes = (key for key in known if key.endswith("-pretrain"))
    return "pretrain" if "pretrain" in known else next(of_sizes, "pretrain")


class StepReader:
    """The data of one training of a run, finished or not. The run may be at work."""

    def __init__(self, run: Path, key: str | None = None) -> None:
        """`key` names the training; None: the pretraining, in a herd of the size that is raised first.

        Raises ArtifactError (L3-DAT-241, 242) where nothing is known of it."""
        rows = {row.get("key"): row for row in read_json_lines(run / EVENTS) if row.get("kind") == READS}
        if not run.is_dir():
            raise NO_RUN(run)
        key = key or _pretraining(map(str, rows))
        self.run, self.key = run, key
        if key not in rows:
            raise NOT_TRAINED(run, key=key, known=sorted(map(str, rows)) or ["none"])
        told = rows[key]
        self.artifact = str(told["artifact"])
        self.options = PretrainOptions.model_validate(told["options"])
        self.plan = self._plan(str(told["plan"]))
        self.dataset = dataset_of(self.options, self.plan)

    def _plan(self, hash: str) -> TokenPlan:
        """The shards it reads, which are not those of the last execution where the config has changed since; those of a
        herd's size bear its name."""
        place = self.run / IN_RUN
        names = (f"{place.name}-*", f"*-{place.name}", f"*-{place.name}-*")
        for folder in [place, *(found for name in names for found in sorted(place.parent.glob(name)))]:
            if folder.is_dir() and (plan := TokenPlan.load(folder)).hash == hash:
                return plan
        raise NO_SHARDS(self.run)

    @cached_property
    def account(self) -> Account:
        """What the ledger says of it."""
        found = [account for account in accounts(witnessed(self.run)) if account.artifact == self.artifact]
        return found[0] if found else Account(self.artifact)

    def data_of(self, step: int) -> int:
        """The 0-based data that a step, counted from 1, has read or will. Raises ConfigError (L3-DAT-243)."""
        total = self.account.total
        if total and not 1 <= step <= total:
            raise NO_SUCH_STEP(f"step {step}", total=total)
        done = self.account.data.get(step)
        return data_step(step - 1, sorted(self.account.left_out)) if done is None else done

    def behind(self, step: int, characters: int) -> dict[str, Any]:
        """The rows of a step with their documents, and `content`, the number that its tokens make: `proof` says whether
        it is the one that the run wrote down when it learnt from the step."""
        data = self.data_of(step)
        read, rows = self.dataset.read(data), self.dataset.rows(data)
        content = f"{_content(read):08x}"
        recorded = self.account.content.get(step)
        addresses = self._addresses({int(number) for number in read.doc_ids})
        return {
            "step": step,
            "data": data + 1,
            "seq_len": read.tokens.shape[1],
            "content": content,
            "proof": "none" if not recorded else "equal" if recorded == content else "differs",
            "skipped": self.account.skipped.get(step),
            "rows": [self._row(read, n, row, addresses, characters) for n, row in enumerate(rows)],
        }

    def _row(
        self, read: TokenRows, n: int, row: int, addresses: dict[int, tuple[str, str]], characters: int
    ) -> dict[str, Any]:
        place, bounds = self.dataset.loader.place(row), read.cu_seqlens[n]
        parts = []
        for number, start, stop in zip(read.doc_ids[read.splits[n] :], bounds[:-1], bounds[1:], strict=False):
            if number == FILL_ID:
                continue
            identity, address = addresses.get(int(number), (f"{int(number):016x}", ""))
            text = self._text(read.tokens[n, start:stop], characters)
            parts.append({"id": identity, "url": address, "start": int(start), "tokens": int(stop - start),
                          "text": text})  # fmt: skip
        return {"row": row, "source": place.source, "epoch": place.epoch, "window": place.window, "parts": parts}

    def _text(self, ids_T: np.ndarray, characters: int) -> str:
        if self._tokenizer is None or not characters:
            return ""
        return self._tokenizer.decode(ids_T[:characters].astype(np.uint32), skip_special=True)[:characters]

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        """The one that the shards were made with, where the run still has it."""
        for folder in sorted((self.run / "artifacts").glob("*")):
            if folder.is_dir() and (folder / "tokenizer.json").is_file():
                found = Tokenizer.load(folder)
                if found.hash == self.plan.tokenizer:
                    return found
        return None

    def _addresses(self, numbers: set[int]) -> dict[int, tuple[str, str]]:
        """Id and address of documents, where the run has a corpus that knows them."""
        folder = self.run / CORPUS_IN_RUN / DOCUMENTS
        if not folder.is_dir():
            return {}
        found = {}
        for records in Table(folder).batches(columns=["id", "url"]):
            rows = zip(records.column("id").to_pylist(), records.column("url").to_pylist(), strict=True)
            found.update({n: (id, url) for id, url in rows if (n := int(id[:16], 16)) in numbers})
        return found

    def steps_of(self, document: str) -> list[int]:
        """The steps that read a document or will, counted from 1. Reads the data of all of them."""
        try:
            number = np.uint64(int(document[:16], 16))
        except ValueError:
            number = None
        if number is None or len(document) < 16:
            raise NO_ID("--document", given=document)
        steps = range(1, self.account.total + 1)
        return [step for step in steps if (self.dataset.read(self.data_of(step)).doc_ids == number).any()]

    def leave_out(self, steps: Sequence[int], why: str) -> dict[str, Any]:
        """Have the data of these steps left out when the run goes on.

        Raises ConfigError (L3-DAT-243, 245) and DataError (L3-DAT-246) where that is not possible, ArtifactError
        (L3-RUN-001) while the run is at work: until it goes on, the checkpoint that is needed could be gone."""
        lock = RunLock(self.run)
        try:
            return self._leave_out(steps, why)
        finally:
            lock.release()

    def _leave_out(self, steps: Sequence[int], why: str) -> dict[str, Any]:
        if (self.run / "artifacts" / self.artifact).exists():
            raise FINISHED(self.run)
        data = [self.data_of(step) for step in steps]
        first, done = min(steps), max(self.account.data, default=0)
        store = CheckpointStore(self.run / "scratch" / self.artifact / "checkpoints")
        known = store.steps()
        usable = [step for step in known if step < first]
        if done >= first and not usable:
            raise NO_CHECKPOINT(self.run, step=first, known=known or ["none"])
        file = ask(self.run, self.artifact, data, why)
        from_step = max(usable, default=0) if done >= first else done
        return {"file": str(file), "from_step": from_step, "data": [number + 1 for number in data]}


def _content(read: TokenRows) -> int:
    """What `content_of` says of a step, whose ranks' numbers add up."""
    rows = zip(read.tokens, read.cu_seqlens, strict=True)
    return sum(content_of(Batch.of_documents(tokens_T, bounds[:-1])) for tokens_T, bounds in rows) % (1 << 32)
