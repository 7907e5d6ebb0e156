"""The KV pool through Python: a hypothesis state machine against a model of whole sequences, and the binding itself."""

from __future__ import annotations

import contextlib
import gc
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llama3.errors import DoesNotFit
from llama3.inference import KvPool

TOKEN = st.integers(0, 1)  # few, so that prefixes meet often
TOKENS = st.lists(TOKEN, min_size=1, max_size=14)
SALTS = st.sampled_from([(b"", 0), (b"tenant", 0), (b"", 1)])
PICK = st.integers(0, 99)
WIDTH = 6


class PoolMachine(RuleBasedStateMachine):
    """The pool beside sequences kept whole and a memory whose slots hold the history up to their token.

    A share, copy, eviction or hit that is wrong puts a foreign history into some row's slots.
    """

    @initialize(blocks=st.integers(4, 16), size=st.integers(1, 4), seqs=st.integers(1, 5))
    def start(self, blocks: int, size: int, seqs: int) -> None:
        self.pool = KvPool(blocks, size, max_seqs=seqs, max_blocks=WIDTH, watermark=0.0)
        self.table, self.lens = self.pool.block_table, self.pool.seq_lens
        self.memory: dict[int, tuple] = {}
        self.salts: dict[int, tuple] = {}
        self.tokens: dict[int, list[int]] = {}
        self.limits: dict[int, int] = {}
        self.pins: list[int] = []

    def slot(self, row: int, position: int) -> int:
        size = self.pool.block_size
        return int(self.table[row, position // size]) * size + position % size

    def history(self, row: int, position: int) -> tuple:
        return self.salts[row], tuple(self.tokens[row][: position + 1])

    def chosen(self, pick: int) -> int:
        rows = sorted(self.tokens)
        return rows[pick % len(rows)]

    def forward(self, row: int, start: int) -> None:
        """Copies first, all sources before any target; then the keys and values of the new tokens."""
        size = self.pool.block_size
        pairs = self.pool.take_copies().tolist()
        contents = [[self.memory.get(source * size + i, ()) for i in range(size)] for source, _ in pairs]
        for (_, target), content in zip(pairs, contents, strict=True):
            self.memory.update({target * size + i: value for i, value in enumerate(content)})
        for position in range(start, len(self.tokens[row])):
            self.memory[self.slot(row, position)] = self.history(row, position)

    @rule(tokens=TOKENS, salt=SALTS, room=st.integers(0, 10))
    def admit(self, tokens: list[int], salt: tuple, room: int) -> None:
        limit = len(tokens) + room
        arguments = {"salt": salt[0], "adapter": salt[1]}
        expected, before = self.pool.match_len(tokens, **arguments), self.pool.stats()
        if limit > self.pool.max_tokens:
            with pytest.raises(DoesNotFit):
                self.pool.admit(tokens, **arguments, max_len=limit)
            return
        admitted = self.pool.admit(tokens, **arguments, max_len=limit)
        if admitted is None:
            assert self.tokens or self.pins, "what fits alone is admitted when alone"
            assert self.pool.stats() == before | {"refused": before["refused"] + 1}
            return
        row, cached = admitted
        assert cached == expected < len(tokens)
        assert cached % self.pool.block_size == 0
        self.salts[row], self.tokens[row], self.limits[row] = salt, list(tokens), limit
        self.forward(row, cached)

    @rule(share=st.integers(0, 31), token=TOKEN)
    def step(self, share: int, token: int) -> None:
        room = WIDTH * self.pool.block_size
        rows = [row for i, row in enumerate(sorted(self.tokens)) if share >> i & 1 and len(self.tokens[row]) < room]
        tokens = [token ^ (row & 1) for row in rows]
        slots = np.full(len(rows), -1, np.int64)
        done = self.pool.step(np.array(rows, np.int64), np.array(tokens, np.uint32), slots)
        assert len(set(slots[:done].tolist())) == done
        if done < len(rows):
            assert len(self.tokens[rows[done]]) >= self.limits[rows[done]], "promised room is never refused"
        for row, token_id, slot in zip(rows[:done], tokens, slots.tolist(), strict=False):
            self.tokens[row].append(token_id)
            assert self.slot(row, len(self.tokens[row]) - 1) == slot
        for row in rows[:done]:
            self.forward(row, len(self.tokens[row]) - 1)

    @precondition(lambda self: self.tokens)
    @rule(pick=PICK, drafts=st.integers(1, 5), accepted=st.lists(TOKEN, max_size=5))
    def draft(self, pick: int, drafts: int, accepted: list[int]) -> None:
        row = self.chosen(pick)
        start, accepted = len(self.tokens[row]), accepted[:drafts]
        if start + drafts > WIDTH * self.pool.block_size:
            with pytest.raises(ValueError, match="full"):
                self.pool.extend(row, drafts)
        elif (slots := self.pool.extend(row, drafts)) is not None:
            assert slots.tolist() == [self.slot(row, start + i) for i in range(drafts)]
            self.tokens[row] += accepted
            self.forward(row, start)
            self.pool.accept(row, accepted)

    @precondition(lambda self: self.tokens)
    @rule(pick=PICK, length=st.integers(1, 14))
    def truncate(self, pick: int, length: int) -> None:
        row = self.chosen(pick)
        if length > len(self.tokens[row]):
            with pytest.raises(ValueError, match="cannot be cut"):
                self.pool.truncate(row, length)
            return
        with contextlib.suppress(ValueError):  # no block may be left for the copy that the cut would need
            self.pool.truncate(row, length)
            del self.tokens[row][length:]

    @precondition(lambda self: self.tokens)
    @rule(pick=PICK, count=st.integers(0, 3))
    def fork(self, pick: int, count: int) -> None:
        row, free = self.chosen(pick), self.pool.stats()["free"]
        for fork in self.pool.fork(row, count) or []:
            self.salts[fork], self.tokens[fork] = self.salts[row], list(self.tokens[row])
            self.limits[fork] = self.limits[row]
        assert self.pool.stats()["free"] == free, "a fork takes no block before somebody writes"

    @precondition(lambda self: self.tokens)
    @rule(pick=PICK, cache=st.booleans())
    def free(self, pick: int, cache: bool) -> None:
        row = self.chosen(pick)
        self.pool.free(row, cache=cache)
        with pytest.raises(ValueError, match="not running"):
            self.pool.free(row)
        del self.tokens[row]

    @precondition(lambda self: self.tokens)
    @rule(pick=PICK)
    def pin(self, pick: int) -> None:
        pin = self.pool.pin(self.chosen(pick))
        self.pins += [] if pin is None else [pin]

    @precondition(lambda self: self.pins)
    @rule(pick=PICK)
    def unpin(self, pick: int) -> None:
        pin = self.pins.pop(pick % len(self.pins))
        self.pool.unpin(pin)
        with pytest.raises(ValueError, match="no pin"):
            self.pool.unpin(pin)

    @rule(count=st.integers(0, 3))
    def evict(self, count: int) -> None:
        before = self.pool.stats()
        assert self.pool.evict(count) == min(count, before["cached"])
        assert self.pool.stats()["free"] == before["free"]

    @rule()
    def reset(self) -> None:
        self.pool.reset()
        self.tokens.clear()
        self.pins.clear()
        assert not self.table.any()
        assert self.pool.stats()["free"] == self.pool.num_blocks - 1

    @invariant()
    def sound(self) -> None:
        assert self.pool.check() == []
        held = set()
        for row, tokens in self.tokens.items():
            assert self.lens[row] == len(tokens)
            for position in range(len(tokens)):
                slot = self.slot(row, position)
                held.add(slot // self.pool.block_size)
                assert self.memory[slot] == self.history(row, position)
        if not self.pins:
            assert self.pool.stats()["free"] == self.pool.num_blocks - 1 - len(held)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40)


def step(pool: KvPool, rows: list[int], tokens: list[int]) -> list[int]:
    slots = np.zeros(len(rows), np.int64)
    assert pool.step(np.array(rows, np.int64), np.array(tokens, np.uint32), slots) == len(rows)
    return slots.tolist()


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_forks_freed_in_any_order_restore_the_pool(order: list[int]) -> None:
    pool = KvPool(32, 4, max_seqs=8)
    start = pool.stats()
    row, cached = pool.admit(range(6), max_len=12)
    forks = pool.fork(row, 3)
    assert cached == 0
    assert (pool.block_table[forks] == pool.block_table[row]).all()
    rows = [row, *forks]
    step(pool, rows, [7, 8, 9, 10])
    assert len(pool.take_copies()) == 3, "the last holder of the partial block writes in place"
    assert (pool.block_table[forks, 0] == pool.block_table[row, 0]).all()
    assert len(set(pool.block_table[rows, 1].tolist())) == 4
    for index in order:
        pool.free(rows[index])
    end = pool.stats()
    assert {name: end[name] for name in ("free", "promised", "rows")} == {
        name: start[name] for name in ("free", "promised", "rows")
    }
    assert pool.check() == []


def test_a_promise_is_kept_however_full_the_pool_is() -> None:
    pool = KvPool(9, 2, max_seqs=8, watermark=0)
    first, _ = pool.admit([1, 2], max_len=12)
    second, _ = pool.admit([3, 4])
    assert pool.admit([5, 6, 7]) is None, "one block is left that nobody was promised"
    assert pool.fork(second, 1) is not None
    step(pool, [second], [5])
    slots = np.zeros(1, np.int64)
    step(pool, [second], [6])
    assert pool.step(np.array([second]), np.array([7], np.uint32), slots) == 0
    for token in range(10):
        step(pool, [first], [token])
    assert pool.check() == []


def test_a_truncated_row_goes_on_and_its_old_blocks_stay_findable() -> None:
    pool = KvPool(32, 4, max_seqs=4)
    row, _ = pool.admit(range(9))
    pool.truncate(row, 6)
    slots = step(pool, [row], [99])
    assert slots == [int(pool.block_table[row, 1]) * 4 + 2]
    assert (pool.seq_lens[row], pool.match_len([0, 1, 2, 3, 4, 5, 99, 100, 101])) == (7, 4)
    step(pool, [row], [100])
    assert pool.match_len([0, 1, 2, 3, 4, 5, 99, 100, 101]) == 8
    assert pool.check() == []


def test_a_long_prompt_finds_itself_again() -> None:
    pool = KvPool(1000, 16, max_seqs=2)
    tokens = np.arange(10_000, dtype=np.uint32) % 251
    row, cached = pool.admit(tokens)
    pool.free(row)
    again, found = pool.admit(tokens)
    assert (cached, found) == (0, 9984)
    pool.free(again)
    assert pool.match_len(tokens, salt=b"other") == 0
    assert pool.match_len(tokens, adapter=1) == 0


def test_a_failed_computation_is_not_found_again() -> None:
    pool = KvPool(32, 4, max_seqs=4)
    row, _ = pool.admit(range(9))
    pool.free(row, cache=False)
    assert pool.match_len(range(9)) == 0
    assert pool.stats()["cached"] == 0


def test_a_pinned_prefix_survives_eviction() -> None:
    pool = KvPool(32, 4, max_seqs=4)
    row, _ = pool.admit(range(9))
    pin = pool.pin(row)
    pool.free(row)
    assert pool.evict(99) == 0
    assert pool.match_len(range(9)) == 8
    assert pool.stats()["pinned"] == 2
    pool.unpin(pin)
    assert pool.evict(99) == 2
    assert pool.match_len(range(9)) == 0


def test_views_are_read_only_fixed_and_keep_the_pool_alive() -> None:
    pool = KvPool(32, 4, max_seqs=4, max_blocks=5)
    table, lens = pool.block_table, pool.seq_lens
    assert (table.shape, table.dtype, lens.shape, lens.dtype) == ((4, 5), np.int32, (4,), np.int32)
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        table.flags.writeable = True
    row, _ = pool.admit(range(9))
    assert table[row, :4].tolist() == [1, 2, 3, 0]
    assert lens.tolist() == [9, 0, 0, 0]
    address = table.ctypes.data
    assert pool.block_table.ctypes.data == address
    del pool
    gc.collect()
    np.zeros(100_000)  # something else may take freed memory
    assert table[row, :4].tolist() == [1, 2, 3, 0]
    assert lens[row] == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_blocks": 1}, "2 blocks"),
        ({"num_blocks": 8, "block_size": 0}, "at least 1"),
        ({"num_blocks": 8, "max_seqs": 0}, "at least 1"),
        ({"num_blocks": 2**40}, "too large"),
        ({"num_blocks": 8, "watermark": 1.5}, "watermark"),
    ],
)
def test_impossible_pools_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KvPool(**arguments)


def test_misuse_is_refused_and_changes_nothing() -> None:
    pool = KvPool(16, 4, max_seqs=4)
    row, _ = pool.admit([1, 2, 3])
    before, slots = pool.stats(), np.zeros(2, np.int64)
    for rows, tokens, message in [
        ([row, row], [1, 2], "twice"),
        ([row, 3], [1, 2], "not running"),
        ([row, -1], [1, 2], "not running"),
        ([row], [1], "one length"),
    ]:
        with pytest.raises(ValueError, match=message):
            pool.step(np.array(rows, np.int64), np.array(tokens, np.uint32), slots)
    with pytest.raises(ValueError, match="at least one token"):
        pool.admit([])
    with pytest.raises(DoesNotFit, match="L3-KVP-001"):
        pool.admit([1], max_len=100)
    assert (pool.stats(), pool.seq_lens[row]) == (before, 3)


def test_long_prompts_are_hashed_while_other_threads_run() -> None:
    pool = KvPool(4000, 16, max_seqs=8)
    tokens = np.arange(60_000, dtype=np.uint32)
    stop = threading.Event()
    thread = threading.Thread(target=lambda: [pool.block_table.sum() for _ in iter(stop.is_set, True)])
    thread.start()
    for _ in range(20):
        row, _ = pool.admit(tokens)
        pool.free(row, cache=False)
    stop.set()
    thread.join()
    assert pool.check() == []


ODD_TOKENS = [[1.5], [-1], np.array([-1]), np.array([2**32]), "abc", [2**40], [None], ["7"]]


@pytest.mark.parametrize("tokens", ODD_TOKENS, ids=str)
def test_what_is_no_token_is_refused_and_changes_nothing(tokens):
    pool = KvPool(16)
    before = pool.stats()
    with pytest.raises(ValueError, match="whole numbers"):
        pool.admit(tokens)
    assert pool.stats() == before


def test_numbers_come_in_any_type():
    pool = KvPool(16)
    rows = [pool.admit(tokens)[0] for tokens in ([1, 2], (3, 4), np.array([5, 6]), np.array([7], np.uint8))]
    slots = np.zeros(4, np.int64)
    assert pool.step(rows, [9, 9, 9, 9], slots) == 4
    assert pool.seq_lens[rows].tolist() == [3, 3, 3, 2]
    assert "16 blocks" in repr(pool)
