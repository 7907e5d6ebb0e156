"""Answers that other processes draw: pieces of prompts go to whoever is free, and those of one that is lost go to the
next.

A crew hires hands. Processes of this machine (`ProcessCrew`) map the weights that the training process writes; on Ray
(llama3.inference.ray_crew) they are an object in its store.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import torch

from llama3 import _core
from llama3.errors import LlamaError
from llama3.inference.completion import Completion
from llama3.inference.engine import Engine
from llama3.inference.pieces import answer, cut, question, read_answer
from llama3.inference.sampling import Sampling
from llama3.inference.shared_model import SharedModel
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

if TYPE_CHECKING:
    import numpy.typing as npt

log = logging.getLogger(__name__)

LOST = LlamaError.declare(
    "L3-ROL-004",
    "{lost} workers that draw answers were lost, one after the other",
    why="the last one {why}",
    fix="look at what the workers wrote to standard error and at the machine's memory; lower "
    "post_training.rollouts.workers, or set post_training.rollouts.where to here. The run goes on from its checkpoint",
)

PIECE = 8
"""Prompts that a worker answers together, unless the config says it."""
MOST_LOST = 3
"""Workers that may be lost in one call before it is given up."""
MAX_BATCH = 128
"""Answers that a worker computes at once."""
LEAVING = 5.0
"""Seconds that a worker has to end when it is let go."""


class HandLostError(Exception):
    """A worker is gone; the text says how."""


class Hand(Protocol):
    """A worker. `ask` waits for its answer and raises HandLostError where it is gone."""

    def ask(self, asked: bytes) -> bytes: ...

    def let_go(self) -> None: ...


class Crew(Protocol):
    """Hires workers for a model. `module` is where the weights are to be written before `publish`."""

    size: int
    module: Transformer

    def hire(self) -> Hand: ...

    def publish(self) -> None:
        """The weights are those of now."""
        ...

    def close(self) -> None: ...


class Fleet:
    """A `Generator` over a crew. `bring` writes the weights of now into the crew's module.

    What the answers are does not depend on how many workers there are, nor on which of them are lost. Raises LlamaError
    (L3-ROL-004) where MOST_LOST are lost in one call. To be closed.
    """

    def __init__(self, crew: Crew, bring: Callable[[], None], piece: int = PIECE) -> None:
        self._crew, self._bring, self._piece = crew, bring, piece
        self._hands: list[Hand | None] = [None] * crew.size

    def generate(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` answers to each prompt (token ids), in order."""
        self._bring()
        if not len(prompts):
            return []
        self._crew.publish()
        pieces = [question(part, sampling) for part in cut(prompts, self._piece)]
        work = _Work(pieces)
        with ThreadPoolExecutor(len(self._hands)) as threads:
            for done in [threads.submit(self._serve, index, work) for index in range(len(self._hands))]:
                done.result()
        return [row for told in work.answers for row in read_answer(told)]

    def close(self) -> None:
        """Let all workers go."""
        for hand in self._hands:
            if hand is not None:
                hand.let_go()
        self._hands = [None] * self._crew.size
        self._crew.close()

    def _serve(self, index: int, work: _Work) -> None:
        """Have one worker do pieces until there are none; where it is lost another one takes its place."""
        while (number := work.take()) is not None:
            try:
                hand = self._hands[index] = self._hands[index] or self._crew.hire()
                work.answers[number] = hand.ask(work.pieces[number])
            except HandLostError as error:
                self._hands[index] = None
                log.warning("a worker that draws answers %s; piece %d is drawn again", error, number)
                work.give_back(number, error)
            except BaseException:
                work.stop()
                raise


class _Work:
    """The pieces of one call."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces, self.answers = pieces, [b""] * len(pieces)
        self._todo, self._lock, self._lost = deque(range(len(pieces))), threading.Lock(), 0
        self._stopped = False

    def take(self) -> int | None:
        with self._lock:
            return self._todo.popleft() if self._todo and not self._stopped else None

    def give_back(self, number: int, why: Exception) -> None:
        """Raises LlamaError where too many workers were lost."""
        with self._lock:
            self._lost += 1
            self._todo.appendleft(number)
            too_many = self._lost >= MOST_LOST
        if too_many:
            self.stop()
            raise LOST("rollouts", lost=MOST_LOST, why=why)

    def stop(self) -> None:
        """No piece is taken any more."""
        with self._lock:
            self._stopped = True


# -- processes of this machine -------------------------------------------------------------------------------------


class ProcessCrew:
    """Processes that map the weights: nothing is copied to them. None outlives this one, whatever ends it."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, size: int, threads: int | None) -> None:
        self.size = size
        self._model = SharedModel(config, dtype)
        self.module = self._model.module
        self._order = {
            "config": config.to_hf(),
            "dtype": str(dtype).removeprefix("torch."),
            "threads": threads or max(1, torch.get_num_threads() // size),
        }

    def hire(self) -> Hand:
        return _Process(self._order, self._model.descriptor)

    def publish(self) -> None:
        """They are there already."""

    def close(self) -> None:
        self._model.close()


class _Process:
    """One of them. It reads its end from its socket."""

    def __init__(self, order: dict[str, object], weights: int) -> None:
        self._socket, theirs = socket.socketpair()
        told = json.dumps(order | {"weights": weights, "socket": theirs.fileno()})
        path = os.pathsep.join(place for place in sys.path if place)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "llama3.inference.fleet_worker", told],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(weights, theirs.fileno()),
                env=os.environ | {"PYTHONPATH": path},
            )

    def ask(self, asked: bytes) -> bytes:
        try:
            send(self._socket, asked)
            told = receive(self._socket)
        except OSError:
            told = None
        if told is None:
            self.let_go()
            raise HandLostError(f"(process {self._process.pid}) ended with code {self._process.returncode}")
        return told

    def let_go(self) -> None:
        self._socket.close()
        try:
            self._process.wait(LEAVING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def work(order: dict[str, object]) -> None:
    """What a process of the crew does: answer pieces until its socket ends."""
    for told in (signal.SIGINT, signal.SIGTERM):  # the training process says when it is over
        signal.signal(told, signal.SIG_IGN)
    threads = int(str(order["threads"]))
    torch.set_num_threads(threads)
    _core.set_num_threads(threads)
    config = order["config"]
    assert isinstance(config, dict)
    dtype = getattr(torch, str(order["dtype"]))
    model = SharedModel(ModelConfig.from_hf(config), dtype, int(str(order["weights"])))
    engine = Engine(model.module, max_batch=MAX_BATCH)
    with socket.socket(fileno=int(str(order["socket"]))) as connection, suppress(OSError):
        while (asked := receive(connection)) is not None:
            send(connection, answer(engine, asked))


def send(connection: socket.socket, message: bytes) -> None:
    """A message with its length before it."""
    connection.sendall(struct.pack("<Q", len(message)) + message)


def receive(connection: socket.socket) -> bytes | None:
    """The next message; None where there will be none."""
    head = _exactly(connection, 8)
    return _exactly(connection, struct.unpack("<Q", head)[0]) if head is not None else None


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        if not (part := connection.recv(min(size - len(parts), 1 << 20))):
            return None
        parts += part
    return bytes(parts)
