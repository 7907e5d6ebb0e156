"""The order of a pipeline: it comes to an end whatever the sizes, and waits no longer than the formula says."""

from __future__ import annotations

from itertools import product

import pytest

from llama3_plugins.parallelism.pipeline import stage_layers
from llama3_plugins.parallelism.schedule import Action, bubble, in_flight, order, split_order


def simulated(orders: list[list[Action]], cost: dict[str, float]) -> float:
    """When the last rank is done, if its actions take as long as `cost` says; messages are free. Fails where ranks wait
    for each other for ever."""
    ranks, chunks = len(orders), 1 + max(action.chunk for order in orders for action in order)
    todo = [actions[::-1] for actions in orders]
    done: dict[tuple[str, int, int], float] = {}
    clock = [0.0] * ranks
    last = ranks * chunks - 1

    def needs(rank: int, action: Action) -> list[tuple[str, int, int]]:
        stage = action.chunk * ranks + rank
        if action.kind == "forward":
            return [("forward", stage - 1, action.microbatch)] if stage > 0 else []
        own = ("forward" if action.kind == "backward" else "backward", stage, action.microbatch)
        sends = action.kind == "backward" and stage < last
        return [own, ("backward", stage + 1, action.microbatch)] if sends else [own]

    while any(todo):
        ready = [r for r in range(ranks) if todo[r] and all(need in done for need in needs(r, todo[r][-1]))]
        assert ready, "every rank waits for another"
        for rank in ready:
            action = todo[rank].pop()
            begin = max([clock[rank], *(done[need] for need in needs(rank, action))])
            clock[rank] = begin + cost[action.kind]
            done[action.kind, action.chunk * ranks + rank, action.microbatch] = clock[rank]
    return max(clock)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_every_order_ends_with_everything_done_once(ranks):
    for chunks, microbatches, consecutive in product((1, 2, 3), (1, 2, 5, 8), (1, 2, 4, 9)):
        orders = [order(rank, ranks, chunks, microbatches, consecutive) for rank in range(ranks)]
        simulated(orders, {"forward": 1.0, "backward": 2.0})
        actions = orders[0]
        assert len(set(actions)) == len(actions) == 2 * chunks * microbatches


@pytest.mark.parametrize(
    ("ranks", "chunks", "microbatches"),
    [(2, 1, 4), (4, 1, 8), (4, 1, 5), (2, 2, 4), (4, 2, 8), (4, 2, 6), (4, 3, 1), (8, 4, 3)],
)
def test_ranks_wait_as_long_as_the_formula_says(ranks, chunks, microbatches):
    working = 3.0 * microbatches
    orders = [order(rank, ranks, chunks, microbatches, ranks) for rank in range(ranks)]
    waiting = simulated(orders, {"forward": 1 / chunks, "backward": 2 / chunks}) - working
    assert waiting / working == pytest.approx(bubble(ranks, chunks, microbatches))


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_backwards_in_halves_shorten_the_waiting_and_keep_no_more(ranks):
    for microbatches in (1, 3, 8, 13):
        orders = [split_order(rank, ranks, microbatches) for rank in range(ranks)]
        waiting = simulated(orders, {"forward": 1.0, "backward": 1.0, "weights": 1.0}) - 3.0 * microbatches
        formula = bubble(ranks, 1, microbatches, split=True) * 3.0 * microbatches
        assert waiting == pytest.approx(formula) if microbatches >= ranks else waiting >= formula
        for actions in orders:
            assert len(set(actions)) == len(actions) == 3 * microbatches
            assert most_held(actions) <= min(ranks, microbatches)


def most_held(actions: list[Action]) -> int:
    """The most microbatches whose hidden states a rank keeps at once: from their forward to their last half."""
    held = [0]
    for action in actions:
        held.append(held[-1] + {"forward": 1, "backward": 0, "weights": -1}[action.kind])
    return max(held)


def test_the_embedding_and_the_output_matrix_count_as_layers():
    stages = stage_layers(126, 16 * 8)  # the paper's: 126 layers and 2 are 8 for each of 16 ranks
    assert [len(stage) for stage in stages] == [0, *[1] * 126, 0]
    assert [list(stage) for stage in stage_layers(5, 3)] == [[0], [1, 2], [3, 4]]
    assert [layer for stage in stage_layers(32, 7) for layer in stage] == list(range(32))


@pytest.mark.parametrize("ranks", range(1, 6))
def test_a_rank_holds_the_forwards_that_its_schedule_promises(ranks):
    for rank in range(ranks):
        assert in_flight(rank, ranks, 1, ranks) == ranks - rank
        assert in_flight(rank, ranks, 1, ranks, split=True) == ranks, "no more than the first rank with 1F1B"
