"""A backward pass in two halves: the gradient of a stage's input, which the stage before it waits for, and those of its
matrices, which nobody waits for (Qi et al. 2023, "Zero bubble pipeline parallelism").

The autograd graph of a stage leads from its output y to its input x and to its weights. A node on the way to x that
also leads to matrices, such as a product, is run twice: first for its other inputs, then for the matrices, with what
came to it the first time. What is cheap (vectors), and what a Python function computes at once in any case, is not put
off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

Weights = Callable[[], None]


def backward_to_input(y: Tensor, grad: Tensor | None, x: Tensor) -> Weights:
    """Put the gradient of `x` into `x.grad`, and return what adds those of the matrices to theirs. Until that is done
    the graph keeps its memory."""
    way = _way(y, x)
    now, later = _leaves(way)
    with _recorded(later) as grads:
        torch.autograd.backward(y, grad, inputs=[x, *now], retain_graph=True)

    def weights() -> None:
        for node, leaves in later.items():
            came = [(GradientEdge(node, i), part) for i, part in enumerate(grads.get(node, ())) if part is not None]
            if came:
                edges, parts = zip(*came, strict=True)
                torch.autograd.backward(edges, parts, inputs=leaves)

    return weights


def _way(y: Tensor, x: Tensor) -> set[Node]:
    """The nodes through which x is reached from y."""
    above: dict[Node, list[Node]] = {}
    assert y.grad_fn is not None
    waiting, seen = [y.grad_fn], {y.grad_fn}
    while waiting:
        node = waiting.pop()
        for child in _children(node):
            above.setdefault(child, []).append(node)
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    way: set[Node] = set()
    waiting = [get_gradient_edge(x).node]
    while waiting:
        for node in above.get(waiting.pop(), ()):
            if node not in way:
                way.add(node)
                waiting.append(node)
    return way | {get_gradient_edge(x).node}


def _leaves(way: set[Node]) -> tuple[list[Tensor], dict[Node, list[Tensor]]]:
    """The weights whose gradients are computed at once, and those that wait, by the node that leads to them."""
    found: dict[Node, list[Node]] = {}
    for node in way:
        for child in _children(node):
            if child not in way:
                for leaf in _below(child):
                    found.setdefault(leaf, []).append(node)
    now: list[Tensor] = []
    later: dict[Node, list[Tensor]] = {}
    for leaf, nodes in found.items():
        weight: Tensor = leaf.variable  # type: ignore[attr-defined]
        # Of a weight that is used twice, one node's run would go on to the other.
        if weight.ndim < 2 or len(nodes) > 1 or isinstance(nodes[0], BackwardCFunction):
            now.append(weight)
        else:
            later.setdefault(nodes[0], []).append(weight)
    return now, later


def _below(node: Node) -> Iterator[Node]:
    """The ends of the graph under a node: where gradients are added to weights."""
    waiting, seen = [node], {node}
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            yield node
        for child in _children(node):
            if child not in seen:
                seen.add(child)
                waiting.append(child)


def _children(node: Node) -> list[Node]:
    return [child for child, _ in node.next_functions if child is not None]


@contextmanager
def _recorded(nodes: Iterable[Node]) -> Iterator[dict[Node, tuple[Tensor | None, ...]]]:
    """What comes to each node, for as long as the block lasts."""
    came: dict[Node, tuple[Tensor | None, ...]] = {}

    def recorder(node: Node) -> Callable[[tuple[Tensor, ...]], None]:
        def record(grads: tuple[Tensor, ...]) -> None:
            came[node] = grads

        return record

    handles = [node.register_prehook(recorder(node)) for node in nodes]
    try:
        yield came
    finally:
        for handle in handles:
            handle.remove()
