"""A model that several processes share: by tensor parallelism, as a pipeline, or both.

`opened` starts the other processes itself, on this machine, or finds that torchrun has started them:

    llama3 serve MODEL --tp 2
    torchrun --nproc-per-node 2 -m llama3 serve MODEL --tp 2

Rank 0 has the scheduler and talks with everybody. The others load their parts and compute what it tells them
(llama3.inference.ranks). None outlives it: those that it started read its end from their standard input, and every
message that a rank waits for fails when the other side is gone.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from llama3 import _core
from llama3.checkpoints.formats import load_tokenizer, open_weights
from llama3.checkpoints.load import check_shapes, load_model, read_parameter
from llama3.checkpoints.quantized import QuantizedWeights
from llama3.config.schema import ParallelismSection
from llama3.errors import CheckpointError, ConfigError, Problem
from llama3.inference.engine import Engine
from llama3.inference.llama import Llama, find_model
from llama3.inference.ranks import LOST, Leader, follow
from llama3.inference.shard import Shard
from llama3.model.device import device_of
from llama3.model.needs import NOT_LOADED, memory_here, size
from llama3.model.precision import DTYPES, chosen
from llama3.model.shards import like
from llama3.plugins.registry import discover
from llama3.safety.engine import PolicyEngine
from llama3.training.parallel import OTHER_WORLD, Dims, Parallel, build_strategies, start
from llama3.training.sampler import axes_of, empty_shard

log = logging.getLogger(__name__)

NOT_CUT = ConfigError.declare(
    "L3-SRV-061",
    "matrices in the format {scheme} cannot be cut over {ranks} processes",
    why="each of them is kept as codes with scales",
    fix="leave out --tp and share the layers with --pp, or serve the model that it was made of",
)

PATIENCE = timedelta(days=30)
"""How long a rank waits for the next request."""
LEAVING = 10.0
"""Seconds that the others have to end, once they are told to."""
TICK = 0.02
"""Seconds between two looks for them."""
LOOPBACK = {"darwin": "lo0"}
"""The interface at which ranks of one machine find each other, where it is not called lo."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Processes that share each matrix (tp), and that share the layers (pp)."""

    tp: int = 1
    pp: int = 1

    @property
    def world(self) -> int:
        """All of them."""
        return self.tp * self.pp

    @property
    def section(self) -> ParallelismSection:
        """As a config says it."""
        return ParallelismSection.model_validate({"tp": self.tp, "pp": self.pp, "dp": 1})


def follows() -> bool:
    """Whether torchrun has started this process as another rank than 0."""
    return _launched() > 1 and os.environ.get("RANK", "0") != "0"


def _launched() -> int:
    """Processes that torchrun has started: 1 where it has not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def serve_rank(model: str, *, device: str, sharing: Sharing) -> None:
    """Another rank of torchrun's: compute what rank 0 tells. Raises LlamaError where that has ended without a word."""
    folder = find_model(Path(model))
    _check(folder, device_of(device), sharing)
    _follow(folder, device, sharing, meeting=None)


@contextmanager
def opened(
    model: str, *, device: str, sharing: Sharing, guard: PolicyEngine | None = None
) -> Iterator[tuple[Llama, Leader | None]]:
    """The model, and the ranks that share it where there are several. For rank 0.

    Its `engine` computes with all of them. The other processes are there until the end of the context.
    Raises as `Llama.load`, and ConfigError where the model cannot be shared so, before any of it is loaded.
    """
    if sharing.world == _launched() == 1:
        yield Llama.load(model, device=device, guard=guard), None
        return
    folder, where = find_model(Path(model)), device_of(device)
    _check(folder, where, sharing)
    with ExitStack() as stack:
        others = None if _launched() > 1 else stack.enter_context(_Others(folder, device, sharing))
        if others is not None:
            others.wait()
        with _environment({} if others is None else _variables(0, sharing.world)):
            shard = _join(folder, where, sharing, None if others is None else others.meeting)
        leader = Leader(shard, check_others=(lambda: None) if others is None else others.check)
        stack.callback(_leave)
        stack.callback(leader.close)
        llama = Llama(shard.model, load_tokenizer(folder), guard=guard)
        yield llama, leader


def engine_of(llama: Llama, ranks: Leader | None) -> None:
    """Have the model generate with the ranks that share it."""
    if ranks is not None:
        llama.engine = Engine(llama.transformer, ranks=ranks)


class _Others:
    """The processes that this one starts: each is told on its standard input what to do, and ends with it."""

    def __init__(self, folder: Path, device: str, sharing: Sharing) -> None:
        self._folder, self._device, self._sharing = folder, device, sharing
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Others:
        self._room = TemporaryDirectory(prefix="llama3-ranks-")
        self.meeting = f"file://{self._room.name}/meeting"
        order = {"folder": str(self._folder), "device": self._device, "meeting": self.meeting}
        told = json.dumps({**order, **asdict(self._sharing)}).encode() + b"\n"
        path = os.pathsep.join(place for place in sys.path if place)
        for rank in range(1, self._sharing.world):
            process = subprocess.Popen(
                [sys.executable, "-m", "llama3.serving.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=os.environ | _variables(rank, self._sharing.world) | {"PYTHONPATH": path},
            )
            assert process.stdin is not None
            self._processes.append(process)
            with suppress(BrokenPipeError):  # one that has ended already is found out by `wait`
                process.stdin.write(told)
                process.stdin.flush()
        return self

    def wait(self) -> None:
        """Until all of them are about to meet: who waits for one that has ended waits for ever. Raises LlamaError."""
        for rank in range(1, self._sharing.world):
            while not _arrived(self.meeting, rank).exists():
                self.check()
                time.sleep(TICK)

    def check(self) -> None:
        """Raises LlamaError where one of them has ended."""
        for rank, process in enumerate(self._processes, 1):
            if process.poll() is not None:
                log.error("rank %d (process %d) ended with code %d", rank, process.pid, process.returncode)
                raise LOST()

    def __exit__(self, *_error: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(LEAVING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._room.cleanup()


def work(order: Mapping[str, object]) -> None:
    """A process that rank 0 has started: do as it is told. Ends at once where rank 0 does."""
    threading.Thread(target=_end_with_it, daemon=True).start()
    sharing = Sharing(int(str(order["tp"])), int(str(order["pp"])))
    _follow(Path(str(order["folder"])), str(order["device"]), sharing, str(order["meeting"]))


def _end_with_it() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


def _follow(folder: Path, device: str, sharing: Sharing, meeting: str | None) -> None:
    # Rank 0 says when it is over: a signal to all of them means that answers may still be finished.
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, signal.SIG_IGN)
    shard = _join(folder, device_of(device), sharing, meeting)
    try:
        follow(shard)
    except RuntimeError as error:
        raise LOST() from error
    finally:
        _leave()


def _check(folder: Path, device: torch.device, sharing: Sharing) -> None:
    """Raises ConfigError with everything that speaks against sharing this model so."""
    source = open_weights(folder)
    dims = Dims(tp=sharing.tp, pp=sharing.pp)
    strategies = build_strategies(sharing.section, sharing.world, discover())
    problems = [problem for strategy in strategies.values() for problem in strategy.check(source.config, dims)]
    if _launched() not in (1, sharing.world):
        problems.append(OTHER_WORLD.problem("--tp, --pp", needed=sharing.world, world=_launched()))
    if isinstance(source, QuantizedWeights) and sharing.tp > 1:
        problems.append(NOT_CUT.problem("--tp", scheme=source.scheme, ranks=sharing.tp))
    if problems:
        raise ConfigError.of(problems)
    dtype, there, parameters = _dtype(device), memory_here(), source.config.num_params()
    if there and device.type == "cpu" and _launched() == 1 and parameters * dtype.itemsize > there:
        raise NOT_LOADED(
            folder,
            needed=size(parameters * dtype.itemsize),
            place="this machine",
            there=size(there),
            parameters=f"{parameters:,}",
            each=dtype.itemsize,
        )


def _dtype(device: torch.device) -> torch.dtype:
    return DTYPES[chosen("auto", "sampling", device)] if device.type == "cuda" else torch.float32


def _join(folder: Path, device: torch.device, sharing: Sharing, meeting: str | None) -> Shard:
    """Meet the other ranks and load this one's part. `meeting`: where they meet, None: as torchrun says."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ["WORLD_SIZE"])
    if meeting is not None and device.type == "cpu":
        threads = max(1, torch.get_num_threads() // world)
        torch.set_num_threads(threads)
        _core.set_num_threads(threads)
    if meeting is not None:
        _arrived(meeting, rank).touch()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, meeting, PATIENCE, rank=rank, world_size=world)
    config = open_weights(folder).config
    return _load(folder, start(sharing.section, config, device, discover()))


def _arrived(meeting: str, rank: int) -> Path:
    """A file that says that a rank has come to the meeting."""
    return Path(meeting.removeprefix("file://")).with_name(f"rank-{rank}")


def _load(folder: Path, parallel: Parallel) -> Shard:
    """This rank's part of a checkpoint. Raises CheckpointError on all ranks for what any of them found."""
    source, context = open_weights(folder), parallel.context
    dtype = _dtype(context.device)
    if isinstance(source, QuantizedWeights):
        model = load_model(folder, dtype=dtype, device=context.device).requires_grad_(False)
        parallel.only("tp", "pp").apply(model)
        return Shard(model, *axes_of(context))
    check_shapes(source)
    shard = empty_shard(source.config, parallel, dtype)
    problems: list[Problem] = []
    with torch.no_grad():
        for name, parameter in shard.model.named_parameters():
            whole = torch.empty(parameter.shape, dtype=dtype)
            problems += read_parameter(source, name, whole)
            parameter.copy_(like(parameter, whole))
    told = context.gather([asdict(problem) for problem in problems], "world")
    if found := dict.fromkeys(Problem.of_row(row) for rows in told for row in rows):
        raise CheckpointError.of(found)
    return shard


def _variables(rank: int, world: int) -> dict[str, str]:
    """What torchrun would have told a rank, and that ranks find each other within this machine."""
    interface = LOOPBACK.get(sys.platform, "lo")
    numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    return numbers | {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """With these variables, for as long as ranks meet."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
