"""Rows against a plain oracle; order, mixture, resume, world sizes, damage."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import resource
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import killed_loader
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from token_plans import TOKENIZER, make_plan, oracle_row, write_shard

from llama3.data import TokenLoader
from llama3.data.loader import RowPhase
from llama3.data.plan import SourceEntry, TokenPlan
from llama3.errors import ConfigError, DataError
from llama3.model.batch import Batch


@pytest.fixture(scope="module")
def plan_and_content(tmp_path_factory):
    return make_plan(tmp_path_factory.mktemp("plan"))


@pytest.fixture
def plan(plan_and_content) -> TokenPlan:
    return plan_and_content[0]


@pytest.mark.parametrize("vocab_size", [300, 128_256])
@pytest.mark.parametrize("seq_len", [1, 7, 64])
def test_rows_equal_the_oracle(tmp_path, vocab_size, seq_len):
    plan, content = make_plan(tmp_path, vocab_size=vocab_size, seed=seq_len)
    loader = TokenLoader(plan, seq_len=seq_len, seed=3)
    rows = loader.rows(5, 40, stride=3)
    assert rows.tokens.shape == (40, seq_len)
    for r in range(40):
        place = loader.place(5 + 3 * r)
        expected = oracle_row(content[place.source], place.window, seq_len)
        assert rows.tokens[r].tolist() == expected["tokens"]
        assert rows.cu_seqlens[r].tolist() == expected["cu_seqlens"]
        assert rows.doc_ids[rows.splits[r] : rows.splits[r + 1]].tolist() == expected["doc_ids"]
        assert rows.positions[r].tolist() == expected["positions"]
        assert loader.sources[rows.source_ids[r]] == place.source


def test_rows_become_a_batch_of_documents(plan):
    rows = TokenLoader(plan, seq_len=32).rows(0, 6)
    batch = Batch.of_documents(rows.tokens.reshape(-1), rows.starts_D)
    assert batch.positions_T.tolist() == rows.positions.reshape(-1).tolist()
    targets = (rows.positions.reshape(-1) > 0).nonzero()[0]
    assert batch.targets_M.tolist() == targets.tolist(), "every token but the first of each segment"


def test_torch_shares_the_memory(plan):
    rows = TokenLoader(plan, seq_len=32).rows(0, 4)
    tokens = torch.from_numpy(rows.tokens)
    assert tokens.data_ptr() == rows.tokens.ctypes.data
    assert tokens.dtype == torch.int32
    assert rows.tokens.flags.c_contiguous
    assert rows.tokens.flags.writeable
    embedded = torch.nn.Embedding(300, 4)(tokens)
    assert embedded.shape == (4, 32, 4)


def test_memory_is_filled_anew_only_when_nobody_holds_it(plan):
    loader = TokenLoader(plan, seq_len=32)
    rows = loader.rows(0, 4)
    held, place, expected = torch.from_numpy(rows.tokens), rows.tokens.ctypes.data, rows.tokens.copy()
    del rows
    others = [loader.rows(4 * n, 4) for n in range(1, 40)]
    others += list(islice(loader.batches(4, threads=3), 40))
    assert place not in {other.tokens.ctypes.data for other in others}
    assert (held.numpy() == expected).all()
    del held
    assert loader.rows(4, 4).tokens.ctypes.data == place, "the memory that was left last is the first to be used"


def test_each_window_comes_once_per_epoch_in_another_order(plan):
    loader = TokenLoader(plan, seq_len=16, seed=1)
    epochs: dict[tuple[str, int], list[int]] = {}
    for row in range(1000):
        place = loader.place(row)
        epochs.setdefault((place.source, place.epoch), []).append(place.window)
    whole = [(key, windows) for key, windows in epochs.items() if (key[0], key[1] + 1) in epochs]
    assert len(whole) >= 6
    for (source, _), windows in whole:
        assert sorted(windows) == list(range(loader.epoch_rows[source]))
    assert len({tuple(windows) for _, windows in whole}) == len(whole), "no two epochs alike"


def test_the_default_mix_is_by_size_and_each_source_ends_its_epoch_together(plan):
    loader = TokenLoader(plan, seq_len=16)
    total = sum(loader.epoch_rows.values())
    seen = Counter(loader.place(row).source for row in range(total))
    for source, rows in loader.epoch_rows.items():
        assert abs(seen[source] - rows) <= 1


def test_weights_hold_at_every_row_and_change_where_the_plan_says(plan):
    before, after = {"source-0": 0.7, "source-1": 0.3}, {"source-2": 0.9, "source-0": 0.1}
    loader = TokenLoader(plan, phases=[RowPhase(0, 16, before), RowPhase(501, 16, after)])
    for weights, start, stop in ((before, 0, 501), (after, 501, 2000)):
        seen: Counter[str] = Counter()
        for row in range(start, stop):
            seen[loader.place(row).source] += 1
            for source in loader.sources:
                assert abs(seen[source] - weights.get(source, 0) * (row + 1 - start)) < 1.05
    unchanged = TokenLoader(plan.with_mix(before), seq_len=16)
    assert [loader.place(row) for row in range(501)] == [unchanged.place(row) for row in range(501)]


def test_seed_and_plan_decide_the_order(plan):
    def order(plan: TokenPlan, seed: int) -> list[object]:
        loader = TokenLoader(plan, seq_len=16, seed=seed)
        return [loader.place(row) for row in range(100)]

    assert order(plan, 1) == order(plan, 1)
    assert order(plan, 1) != order(plan, 2)
    # Leaving a source out reorders no other one.
    fewer = plan.with_mix({"source-0": 1.0})
    alone = [place for place in order(plan, 1) if place.source == "source-0"]
    assert order(fewer, 1)[: len(alone)] == alone


def stream_hash(loader: TokenLoader, batches: int, batch: int) -> str:
    digest = hashlib.sha256()
    for rows in islice(loader.batches(batch), batches):
        digest.update(rows.tokens.tobytes() + rows.bounds.tobytes() + rows.doc_ids.tobytes())
    return digest.hexdigest()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data())
def test_killed_anywhere_and_resumed_on_any_world_size_the_stream_is_the_same(plan, data):
    """The state goes through JSON; each life reads a while on its own number of ranks and threads, prefetches more, and
    dies.
    """
    batch, steps = data.draw(st.sampled_from([8, 9, 13])), 12
    expected = stream_hash(TokenLoader(plan, seq_len=16, seed=9), steps, batch)
    digest, step = hashlib.sha256(), 0
    state = json.dumps(TokenLoader(plan, seq_len=16, seed=9).state_dict())
    while step < steps:
        world = data.draw(st.sampled_from([1, 2, 3, 4, 8]))
        life = min(steps - step, data.draw(st.integers(1, 5)))
        ahead = {"threads": data.draw(st.integers(1, 4)), "prefetch": data.draw(st.integers(1, 5))}
        ranks = [TokenLoader(plan, seq_len=16, seed=9) for _ in range(world)]
        for loader in ranks:
            loader.load_state_dict(json.loads(state))
        streams = [loader.batches(batch, rank=r, world=world, **ahead) for r, loader in enumerate(ranks)]
        for _ in range(life):
            shares = [next(stream) for stream in streams]
            tokens = np.empty((batch, 16), np.int32)
            bounds: list[np.ndarray] = [np.empty(0)] * batch
            documents: list[np.ndarray] = [np.empty(0)] * batch
            for r, rows in enumerate(shares):
                tokens[r::world] = rows.tokens
                bounds[r::world] = rows.cu_seqlens
                documents[r::world] = np.split(rows.doc_ids, rows.splits[1:-1])
            digest.update(tokens.tobytes() + np.concatenate(bounds).tobytes() + np.concatenate(documents).tobytes())
            step += 1
        states = {json.dumps(loader.state_dict()) for loader in ranks}
        (state,) = states
        assert len(state) < 1024
    assert digest.hexdigest() == expected


def test_killed_by_a_signal_a_hundred_times_the_stream_is_the_same(plan, tmp_path):
    plan.save(tmp_path)
    script = Path(killed_loader.__file__)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script, plan.folder, tmp_path, "100", "5"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["worlds"] == [[world, True] for world in killed_loader.WORLDS], "each rank was killed while it read"
    assert told["killed"] >= 100
    assert told["rows"] > 50 * killed_loader.BATCH
    rows = killed_loader.opened(plan.folder).rows(0, told["rows"])
    assert told["digest"] == hashlib.sha256(b"".join(killed_loader.digests(rows))).hexdigest()


def test_the_state_is_small_and_counts_what_was_delivered(plan):
    loader = TokenLoader(plan, seq_len=16, seed=2**63)
    stream = loader.batches(8, prefetch=16)
    for _ in range(3):
        next(stream)
    state = loader.state_dict()
    assert state["next_row"] == 24
    assert len(json.dumps({**state, "next_row": 2**63})) < 1024


def test_a_state_of_another_stream_is_refused(plan):
    state = TokenLoader(plan, seq_len=16, seed=1).state_dict()
    others = [
        TokenLoader(plan, seq_len=8, seed=1),
        TokenLoader(plan, seq_len=16, seed=2),
        TokenLoader(plan.with_mix({"source-0": 1}), seq_len=16, seed=1),
    ]
    for other in others:
        with pytest.raises(DataError, match="L3-DAT-206"):
            other.load_state_dict(state)
    for broken in (
        None,
        [],
        {},
        {**state, "next_row": -1},
        {**state, "next_row": 2**64},
        {**state, "next_row": None},
        {**state, "version": 1},
    ):
        with pytest.raises(DataError, match="L3-DAT-206"):
            TokenLoader(plan, seq_len=16, seed=1).load_state_dict(broken)


def test_the_stream_does_not_hang_in_a_forked_child(plan):
    loader = TokenLoader(plan, seq_len=16)
    stream = loader.batches(4, threads=2)
    next(stream)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            loader.rows(0, 4)  # needs no thread: works
            next(stream)
        except DataError as error:
            status = 0 if "parent process" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    next(stream)


# -- damage and bad requests -------------------------------------------------------------------------


def sections(path) -> dict[str, range]:
    """Byte ranges of a shard's regions, from its header."""
    header = path.read_bytes()[:4096]
    bits, tokens = int.from_bytes(header[12:16], "little"), int.from_bytes(header[24:32], "little")
    ends, ids, hashes, size = (int.from_bytes(header[at : at + 8], "little") for at in (48, 56, 64, 72))
    return {
        "header": range(0, 144),
        "header padding": range(144, 4064),
        "header hash": range(4064, 4096),
        "tokens": range(4096, 4096 + -(-tokens * bits // 8)),
        "document ends": range(ends, ids),
        "document ids": range(ids, hashes),
        "hashes": range(hashes, size - 64),
        "footer": range(size - 64, size),
    }


@pytest.mark.parametrize(
    "region",
    ["header", "header padding", "header hash", "tokens", "document ends", "document ids", "hashes", "footer"],
)
def test_a_flipped_bit_anywhere_is_an_error_that_names_the_shard(tmp_path, region):
    plan, _ = make_plan(tmp_path, sources=1)
    path = tmp_path / "0-0.tok"
    good = path.read_bytes()
    draw = random.Random(region)
    for _ in range(5):
        at = draw.choice(sections(path)[region])
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << draw.randrange(8)]) + good[at + 1 :])
        with pytest.raises(DataError, match=r"L3-DAT-203") as caught:
            TokenLoader(plan, seq_len=8).rows(0, 200)
        assert str(path) in str(caught.value)
        assert "byte" in str(caught.value)
        path.write_bytes(good)
    TokenLoader(plan, seq_len=8).rows(0, 200)


def test_cut_missing_and_swapped_shards_are_named(tmp_path):
    plan, _ = make_plan(tmp_path, sources=2)
    path = tmp_path / "1-1.tok"
    good = path.read_bytes()
    for size in (0, 100, 4096, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(DataError, match=r"1-1\.tok"):
            TokenLoader(plan, seq_len=8)
    path.write_bytes((tmp_path / "0-0.tok").read_bytes())
    with pytest.raises(DataError, match=r"1-1\.tok.*L3-DAT-205"):
        TokenLoader(plan, seq_len=8)
    path.unlink()
    with pytest.raises(DataError, match=r"1-1\.tok.*No such file.*L3-DAT-203"):
        TokenLoader(plan, seq_len=8)


def test_damage_met_while_streaming_stops_there(tmp_path):
    plan, _ = make_plan(tmp_path, sources=1)
    path = tmp_path / "0-1.tok"
    loader = TokenLoader(plan, seq_len=8)
    data = bytearray(path.read_bytes())
    data[4096] ^= 1
    path.write_bytes(data)  # same file, same length: as bit rot would
    with pytest.raises(DataError, match=r"0-1\.tok.*byte 4096"):
        list(islice(loader.batches(4), 100))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"version": 1}', b"[" * 100_000])
def test_a_broken_plan_is_refused(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(DataError, match="L3-DAT-201"):
        TokenLoader(tmp_path, seq_len=8)
    with pytest.raises(DataError, match="L3-DAT-201"):
        TokenLoader(tmp_path / "nothing", seq_len=8)


def test_impossible_requests_are_refused(plan):
    with pytest.raises(ConfigError, match=r"'typo'.*L3-DAT-202"):
        plan.with_mix({"typo": 1.0})
    with pytest.raises(ConfigError, match="L3-DAT-202"):
        plan.with_mix({"source-0": 0.0})
    with pytest.raises(DataError, match=r"less than one row.*L3-DAT-204"):
        TokenLoader(plan.with_mix({"source-0": 1.0}), seq_len=100_000)
    for seq_len in (0, -1, 2**31, 2**40, 2.0):
        with pytest.raises(DataError, match=r"seq_len.*of 1 to [\d,]+ \[L3-DAT-299"):
            TokenLoader(plan, seq_len=seq_len)
    for seed in (-1, 2**64, 0.5):
        with pytest.raises(DataError, match="L3-DAT-300"):
            TokenLoader(plan, seq_len=8, seed=seed)
    loader = TokenLoader(plan, seq_len=8)
    for request in ((-1, 1, 1), (0, -1, 1), (0, 2**60, 1), (2**64 - 1, 2, 1), (0, 2, 2**63)):
        with pytest.raises(DataError, match="L3-DAT-204"):
            loader.rows(*request)
    for rank, world in ((1, 1), (0, 0), (-1, 2), (0, 5)):
        with pytest.raises(DataError, match="L3-DAT-204"):
            next(loader.batches(4, rank=rank, world=world))
    assert len(loader.rows(0, 0)) == 0


def test_a_source_shorter_than_a_row_is_left_out_of_the_default_mix(tmp_path):
    plan, _ = make_plan(tmp_path)
    longest = max(source.tokens for source in plan.sources)
    loader = TokenLoader(plan, seq_len=longest)
    assert {loader.place(row).source for row in range(10)} == {
        source.name for source in plan.sources if source.tokens == longest
    }


def test_length_items_and_iteration_are_one_pass(plan_and_content):
    """As torch's DataLoader and a plain loop want them: each window of each source once."""
    plan, content = plan_and_content
    loader = TokenLoader(plan, seq_len=8, seed=1)
    assert len(loader) == sum(loader.epoch_rows.values())
    rows = list(loader)
    assert len(rows) == len(loader)
    windows = {(place.source, place.epoch, place.window) for place in map(loader.place, range(len(loader)))}
    assert windows == {(name, 0, n) for name, count in loader.epoch_rows.items() for n in range(count)}
    for number, row in enumerate(rows):
        source, _, window = loader.place(number)
        assert row.tolist() == oracle_row(content[source], window, 8)["tokens"]
    assert loader[-1].tolist() == rows[-1].tolist()
    assert loader.next_row == 0
    with pytest.raises(IndexError):
        loader[len(loader)]
    batches = list(torch.utils.data.DataLoader(loader, batch_size=4))
    assert torch.cat(batches).tolist() == [row.tolist() for row in rows]
    assert f"{len(loader)} rows" in repr(loader)


def test_workers_that_are_started_anew_read_the_same_rows(plan):
    loader = TokenLoader(plan, seq_len=8, seed=3)
    loader.skip(range(4, 8))
    next(loader.batches(2))
    batches = torch.utils.data.DataLoader(loader, batch_size=4, num_workers=1, multiprocessing_context="forkserver")
    assert torch.cat(list(batches)).tolist() == [row.tolist() for row in loader]
    again = pickle.loads(pickle.dumps(loader))
    assert again.state_dict() == loader.state_dict()
    assert next(again.batches(4)).tokens.tolist() == next(loader.batches(4)).tokens.tolist()


def test_a_source_that_fills_no_row_is_told(tmp_path):
    plan, _ = make_plan(tmp_path)
    shortest = min(plan.sources, key=lambda source: source.tokens)
    loader = TokenLoader(plan, seq_len=shortest.tokens + 1)
    assert shortest.name in loader.left_out
    assert f"shorter than a row: {', '.join(loader.left_out)}" in repr(loader)
    assert not TokenLoader(plan, seq_len=shortest.tokens).left_out


@pytest.mark.parametrize("given", [5, None, ["a", "b"], np.arange(9)], ids=lambda value: type(value).__name__)
def test_what_is_no_plan_is_refused(given):
    with pytest.raises(DataError, match="L3-DAT-201"):
        TokenLoader(given, seq_len=8)


def test_rows_that_cannot_be_are_refused(plan):
    loader = TokenLoader(plan, seq_len=8)
    for wrong, told in (
        (lambda: loader.place(-1), "row is -1"),
        (lambda: loader.rows(-1, 1), "start is -1"),
        (lambda: loader.rows(0, -2), "count is -2"),
        (lambda: loader.rows(0, 1, -1), "stride is -1"),
        (lambda: loader.rows(2**70, 1), f"start is {2**70}"),
        (lambda: loader.rows(0, 10**12), "rows from 0"),
    ):
        with pytest.raises(DataError, match=rf"{told}.*L3-DAT-204"):
            wrong()
    assert len(loader.rows(np.int64(1), np.int32(2))) == 2


def test_a_shard_that_is_cut_while_it_is_open_is_damage(tmp_path):
    """Through a memory map the process would end without a word."""
    plan, _ = make_plan(tmp_path, documents=3000)
    loader = TokenLoader(plan, seq_len=32)
    stream = loader.batches(4, prefetch=1)
    next(stream)
    (path,) = plan.paths(plan.sources[0])[:1]
    os.truncate(path, 4096)
    with pytest.raises(DataError, match=r"L3-DAT-203"):
        loader.rows(0, 500)
    with pytest.raises(DataError, match=r"was cut from \d+ to 4096 bytes"):
        list(islice(stream, 500))


def test_a_plan_of_more_shards_than_files_may_be_open_is_read(tmp_path):
    """Of a process that may hold a few files more than it does, all of which are read, each once."""
    documents = {n: [(n, [n % 300] * 8)] for n in range(120)}
    shards = [write_shard(tmp_path / f"{n}.tok", batch, 300) for n, batch in documents.items()]
    plan = TokenPlan(tokenizer=TOKENIZER, vocab_size=300, sources=[SourceEntry(name="all", shards=shards)])
    plan.save(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 60, hard))
    try:
        rows = TokenLoader(tmp_path, seq_len=8).rows(0, 120)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(rows.doc_ids.tolist()) == sorted(documents)


def test_a_shard_that_is_another_when_it_is_first_read_is_damage(tmp_path):
    """Opening a plan reads frames alone."""
    plan, _ = make_plan(tmp_path, sources=1)
    loader = TokenLoader(plan, seq_len=8)
    for name in ("0-0.tok", "0-1.tok"):
        (tmp_path / name).unlink()
        write_shard(tmp_path / name, [(7, [1] * 5000)], 300)
    with pytest.raises(DataError, match=r"was changed while it was open.*L3-DAT-203"):
        loader.rows(0, 1)


LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 60)), min_size=1, max_size=5)


def documents_of(rows, n):
    """Of a row its source and its documents."""
    return int(rows.source_ids[n]), rows.doc_ids[rows.splits[n] : rows.splits[n + 1]].tolist()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(phases=LENGTHS, data=st.data())
def test_rows_of_any_lengths_read_no_token_twice_and_do_not_depend_on_what_comes_later(plan, phases, data):
    """Any row lengths, whether they divide each other or not."""
    rows = [RowPhase(sum(n for _, n in phases[:i]), length) for i, (length, _) in enumerate(phases)]
    window = data.draw(st.sampled_from([1, math.lcm(2, *(length for length, _ in phases))]))
    loader = TokenLoader(plan, phases=rows, seed=5, window=window)
    total = sum(n for _, n in phases)
    seen: dict[tuple[str, int], set[int]] = {}
    for row in range(total + 50):
        place, length = loader.place(row), len(loader.rows(row, 1).tokens[0])
        read = seen.setdefault((place.source, place.epoch), set())
        tokens = set(range(place.window * length, (place.window + 1) * length))
        assert not read & tokens
        read |= tokens
    if window > 1 and len(rows) > 1:
        kept = data.draw(st.integers(2, len(rows)))
        early = TokenLoader(plan, phases=rows[:kept], seed=5, window=window)
        border = rows[kept - 1].from_row
        assert [early.place(row) for row in range(border)] == [loader.place(row) for row in range(border)]


def left(skipped, count):
    """The first `count` rows that are not skipped, as plainly as possible."""
    rows = (row for row in range(1_000_000) if not any(start <= row < stop for start, stop in skipped))
    return list(islice(rows, count))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    skipped=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda p: (p[0], p[0] + p[1])), max_size=5),
    batch=st.integers(4, 9),
    worlds=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 5),
)
def test_skipped_rows_are_left_out_on_any_world_size_and_after_any_resume(plan, skipped, batch, worlds, seed):
    whole = TokenLoader(plan, seq_len=16, seed=seed)
    expected, state, read = left(skipped, batch * 3 * len(worlds)), None, []
    for world in worlds:  # three batches each, then it goes on on another number of ranks
        shares = []
        for rank in range(world):
            loader = TokenLoader(plan, seq_len=16, seed=seed)
            if state is not None:
                loader.load_state_dict(json.loads(json.dumps(state)))
            else:
                for start, stop in skipped:
                    loader.skip(range(start, stop))
            shares.append(list(islice(loader.batches(batch, rank=rank, world=world), 3)))
        state = loader.state_dict()
        for step in range(3):
            rows = [None] * batch
            for rank in range(world):
                share = shares[rank][step]
                for n, place in enumerate(range(rank, batch, world)):
                    rows[place] = (share.tokens[n].tolist(), share.cu_seqlens[n].tolist(), documents_of(share, n))
            read += rows
    assert len(read) == len(expected)
    for (tokens, bounds, documents), row in zip(read, expected, strict=True):
        alone = whole.rows(row, 1)
        assert tokens == alone.tokens[0].tolist()
        assert bounds == alone.cu_seqlens[0].tolist()
        assert documents == documents_of(alone, 0)


@pytest.mark.parametrize("rows", [range(5, 2), range(0, 9, 2), range(-3, 4)])
def test_what_is_no_range_of_rows_is_not_skipped(plan, rows):
    loader = TokenLoader(plan, seq_len=16)
    with pytest.raises(DataError, match="L3-DAT-204"):
        loader.skip(rows)
    assert loader.state_dict()["skipped"] == []


@pytest.mark.parametrize("skipped", [None, [1], [[3, 2]], [[0, 1, 2]], [["a", "b"]], "no"])
def test_a_state_with_odd_gaps_is_refused(plan, skipped):
    loader = TokenLoader(plan, seq_len=16)
    with pytest.raises(DataError, match="skipped is"):
        loader.load_state_dict({**loader.state_dict(), "skipped": skipped})
