"""The replica groups of a `torchft` lighthouse, as one of them sees them.

torchft's `Manager` is used in its synchronous mode: when `start_quorum` returns, the process group is that of this
step's quorum, and whoever is behind has the state of one that is not. Then all compare what they are about to do, in
one small message: an equal step, an equal training, and after every change of the quorum equal weights, to the bit.
Two groups that did the same step apart, because each had lost the other, differ by rounding: the second heals from the
first.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from llama3.errors import LlamaError
from llama3.parallelism import HandedOver, Member, ParallelContext
from llama3_plugins.parallelism.options import TorchftOptions

NOBODY = LlamaError.declare(
    "L3-PAR-024",
    "no replica groups were found by {lighthouse}",
    why="{error}",
    fix="start torchft_lighthouse there, and as many groups as its --min_replicas; the same command goes on from the "
    "last checkpoint",
)
ELSEWHERE = LlamaError.declare(
    "L3-PAR-025",
    "the other replica groups train something else",
    why="their config, data or stage is another, or this run is behind by a stage",
    fix="give every group the same config and one lighthouse of their own; one that is behind goes on alone when the "
    "others have ended",
)

log = logging.getLogger(__name__)


class Quorum:
    """`llama3.parallelism.Replicas` by torchft. Joins when the first step begins."""

    def __init__(self, options: TorchftOptions, context: ParallelContext) -> None:
        self.place, self.count = 0, 1
        self._options, self._context = options, context
        self._manager: Any = None
        self._group: Any = None
        self._store: dist.TCPStore | None = None
        self._member: Member | None = None
        self._has_committed = False

    # -- a step ----------------------------------------------------------------------------------

    def meet(self, member: Member) -> None:
        """Raises LlamaError: L3-PAR-024 where no quorum comes about, L3-PAR-025 where the others train something
        else and this group has just come."""
        self._member = member
        manager = self._open()
        differs, made, step = False, self._group.made, member.step()
        for _ in range(2):
            # The step 0 of one whose weights differ makes it heal.
            manager.load_state_dict({"step": 0 if differs else step, "batches_committed": 0})
            self._start_quorum(manager)
            step, changed = member.step(), self._group.made != made
            self.place, self.count = manager.participating_rank() or 0, manager.num_participants()
            if not self._agree(manager, member, compare=changed):
                return
            differs = self.place > 0
        self._give_up("weights differ after they were handed over")

    def all_reduce(self, x: Tensor, op: Literal["sum", "max"] = "sum") -> None:
        if self.count == 1 or self._manager.errored():
            return
        how = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[op]
        total = x.detach().clone(memory_format=torch.contiguous_format)  # what fails may leave anything in it
        self._manager.allreduce(total, reduce_op=how).wait()
        if not self._manager.errored():
            x.copy_(total)

    def commit(self) -> bool:
        committed = bool(self._manager.should_commit())
        if committed:
            self._has_committed = True
        elif error := self._manager.errored():
            log.warning("a step is not committed: %s", str(error.original_exception).partition("\n")[0])
        self.place, self.count = 0, 1
        return committed

    def close(self) -> None:
        if self._manager is not None:
            self._manager.shutdown(wait=False)
            self._manager = self._group = self._store = None
        self.place, self.count = 0, 1

    # -- agreeing --------------------------------------------------------------------------------

    def _start_quorum(self, manager: Any) -> None:
        try:
            manager.start_quorum()
        except (RuntimeError, TimeoutError) as error:
            raise NOBODY("parallelism.dp", lighthouse=self._options.lighthouse, error=error) from error

    def _agree(self, manager: Any, member: Member, *, compare: bool) -> bool:
        """Compare with the others; whether it must be done again because weights differ."""
        own = [member.step(), member.identity, member.fingerprint() if compare else 0]
        x = torch.tensor([*own, *(-number for number in own)])
        self.all_reduce(x, "max")
        unlike = [most != -least for most, least in zip(*x.view(2, -1).tolist(), strict=True)]
        # Ranks of a group, each of which asked others, go the same way.
        step, identity, weights = self._context.reduce(unlike, "max", "world")
        if identity and not self._has_committed:
            raise ELSEWHERE("parallelism.dp")
        if step or identity:
            self._give_up("another replica group is in another step" if step else "another one trains something else")
        return bool(weights) and not (step or identity)

    def _give_up(self, why: str) -> None:
        """This step cannot be committed."""
        self._manager.report_error(RuntimeError(why))

    def _take(self, told: HandedOver) -> None:
        assert self._member is not None
        if told.state["member"] == self._member.identity:
            self._member.take(told)

    def _give(self) -> HandedOver:
        assert self._member is not None
        told = self._member.give()
        return HandedOver({**told.state, "member": self._member.identity}, told.tensors)

    # -- joining ---------------------------------------------------------------------------------

    def _open(self) -> Any:
        """The manager of this rank. torchft is imported no earlier than it is used."""
        if self._manager is not None:
            return self._manager
        os.environ.setdefault("RUST_LOG", "error")  # its core tells of every request
        from torchft import Manager, ProcessGroupGloo

        class Counting(ProcessGroupGloo):
            """Counts how often it was made anew."""

            made = 0

            def configure(self, *given: Any, **named: Any) -> None:
                super().configure(*given, **named)
                self.made += 1

        seconds = timedelta(seconds=self._options.seconds)
        host = self._options.host or socket.gethostname()
        if self._context.is_main:
            self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        port = self._store.port if self._store is not None else 0
        store = self._context.gather([host, port], "world")[0]
        self._group = Counting(timeout=seconds)
        try:
            self._manager = Manager(
                pg=self._group,
                load_state_dict=self._take,
                state_dict=self._give,
                min_replica_size=1,  # the lighthouse waits for as many as it was told
                use_async_quorum=False,
                timeout=seconds,
                quorum_timeout=timedelta(seconds=self._options.patience),
                connect_timeout=seconds,
                rank=self._context.rank,
                world_size=self._context.dims.world,
                store_addr=store[0],
                store_port=store[1],
                lighthouse_addr=self._options.lighthouse,
                hostname=host,
                checkpoint_transport=Courier(self._group),
            )
        except (RuntimeError, TimeoutError, ValueError) as error:
            raise NOBODY("parallelism.dp", lighthouse=self._options.lighthouse, error=error) from error
        return self._manager


class Courier:
    """Sends states over the process group of the quorum, as torchft's `CheckpointTransport`: a JSON value that
    describes them, then one tensor after another. Both sides are torchft's threads, in which its manager calls this
    while all wait for the step to begin."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def metadata(self) -> str:
        """What a receiver must know to find the sender: nothing, both are in the group."""
        return ""

    def send_checkpoint(self, dst_ranks: list[int], step: int, state_dict: dict[str, Any], timeout: timedelta) -> None:
        told: HandedOver = state_dict["user"]["default"]
        tensors = [tensor for held in told.tensors.values() for tensor in held.values()]
        rows = {
            group: {
                name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in held.items()
            }
            for group, held in told.tensors.items()
        }
        text = json.dumps({"manager": state_dict["torchft"], "state": told.state, "rows": rows}).encode()
        message = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        for rank in dst_ranks:
            for tensor in (torch.tensor([len(message)]), message, *tensors):
                if tensor.numel():
                    self._group.send([tensor.contiguous().cpu()], rank, 0).wait()

    def recv_checkpoint(self, src_rank: int, metadata: str, step: int, timeout: timedelta) -> dict[str, Any]:
        def received(shape: list[int], dtype: torch.dtype) -> Tensor:
            tensor = torch.empty(shape, dtype=dtype)
            if tensor.numel():
                self._group.recv([tensor], src_rank, 0).wait()
            return tensor

        size = int(received([1], torch.int64))
        told = json.loads(bytes(received([size], torch.uint8).numpy()))
        tensors = {
            group: {name: received(shape, getattr(torch, dtype)) for name, (shape, dtype) in held.items()}
            for group, held in told["rows"].items()
        }
        return {"user": {"default": HandedOver(told["state"], tensors)}, "torchft": told["manager"]}

    def disallow_checkpoint(self) -> None:
        """Nothing is left behind that could be fetched later."""

    def shutdown(self, wait: bool = True) -> None:
        """It has no thread of its own."""
