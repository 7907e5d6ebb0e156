"""One step of the running answers: a forward over their last tokens and drafts, then a draw at each place.

The two are apart (`launch`, `finish`), because other forwards may be launched before this one is drawn from.

Legend: T new tokens, D model dim, V vocabulary, R places whose next token is drawn: after the last token of each answer
and after each token of its draft; S places whose hidden states a reader is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from torch import Tensor

from llama3.errors import PluginError
from llama3.inference.forwards import ForwardPlan, Forwards
from llama3.inference.kv_pool import KvPool
from llama3.inference.paged_attention import Ints, ranges
from llama3.inference.request import Answer, Prefill, Request
from llama3.inference.sampling import Draws, Top, draw, scores_of, tops_of, uniforms
from llama3.inference.speculation import PromptLookup

NOTHING_ALLOWED = PluginError.declare(
    "L3-GEN-021",
    "a constraint allows no token",
    why="`allowed` must give bool[{size}], at least one of them true",
    fix="allow a token that ends the answer where nothing else may come",
)


@dataclass(frozen=True)
class Flight:
    """A forward under way: of running answers with their drafts, and of pieces of prompts.

    begun: the answers of the prompts that are now computed to their end
    shown: prompts whose reader is shown this many tokens' hidden states
    """

    running: list[Answer]
    drafts: list[list[int]]
    begun: list[Answer]
    shown: list[tuple[Prefill, int]]

    @property
    def answers(self) -> list[Answer]:
        """Those that get their next token from it."""
        return self.running + self.begun


class Decoder:
    """Has forwards computed for an engine, in whichever thread has the turn, and draws from them.

    fail: told of a request whose constraint or reader raised; what the model raises is everybody's and is raised
    draft_rows: rows of a forward that drafts may fill up, 0: none are made
    drafted, accepted: tokens that were guessed since the start, and those of them that were right
    """

    def __init__(
        self, pool: KvPool, forwards: Forwards, *, fail: Callable[[Request, Exception], None], draft_rows: int
    ) -> None:
        self.pool, self.forwards = pool, forwards
        self.fail, self.draft_rows = fail, draft_rows
        self.drafted = self.accepted = 0

    def lookup(self, request: Request) -> PromptLookup | None:
        """A constraint is asked after each token, so what it constrains is not drawn several tokens at a time."""
        if not self.draft_rows or request.constrain is not None:
            return None
        return PromptLookup(request.prompt, request.sampling.max_tokens)

    def drafts(self, running: list[Answer]) -> list[list[int]]:
        """What may come after the last token of each running answer: never more than it may still have before its last
        token, and no more together than a forward computes cheaply."""
        most = self.draft_rows // max(1, len(running)) - 1
        drafts: list[list[int]] = []
        for answer in running:
            room = min(most, answer.request.sampling.max_tokens - len(answer.ids) - 1)
            drafts.append([] if answer.lookup is None else answer.lookup.draft(answer.ids, room))
        return drafts

    def launch(self, running: list[Answer], drafts: list[list[int]], prefills: list[Prefill]) -> Flight:
        """Have the last token of each running answer with its draft, and the pieces of prompts, computed. Scored are
        the places after each token of the running answers, then the last one of each prompt that is now computed, once
        for each of its answers."""
        appended = self._append(running, drafts)
        tokens = [[answer.ids[-1], *draft] for answer, draft in zip(running, drafts, strict=True)]
        drawn = np.fromiter(map(len, tokens), np.int64)
        rows = np.append(appended, [prefill.row for prefill in prefills]).astype(np.int64)
        starts = np.append(self.pool.seq_lens[appended] - drawn, [prefill.done for prefill in prefills]).astype(
            np.int64
        )
        new = np.append(drawn, [prefill.piece for prefill in prefills]).astype(np.int64)
        pieces = [prefill.request.prompt[prefill.done : prefill.done + prefill.piece] for prefill in prefills]
        last = np.fromiter(chain.from_iterable(tokens), np.uint32)
        ends = np.cumsum(new)[len(running) :]
        shown, places = [], [np.empty(0, np.int64)]
        for prefill, end in zip(prefills, ends.tolist(), strict=True):
            prefill.done += prefill.piece
            if prefill.request.reader is not None and prefill.is_first:
                shown.append((prefill, prefill.piece))
                places.append(np.arange(end - prefill.piece, end))
        answers = [0 if prefill.left else len(prefill.answers) for prefill in prefills]
        self.forwards.launch(
            ForwardPlan(
                tokens_T=np.concatenate([last, *pieces]),
                rows_B=rows,
                starts_B=starts,
                ends_B=starts + new,
                scored_R=np.append(np.arange(len(last)), np.repeat(ends - 1, np.array(answers, np.int64))),
                shown_S=np.concatenate(places),
            )
        )
        begun = [answer for prefill in prefills if not prefill.left for answer in prefill.answers]
        return Flight(running, drafts, begun, shown)

    def finish(self, flight: Flight) -> None:
        """Show readers what the oldest flight, this one, computed, and draw from it."""
        logits_RV, h_SD = self.forwards.collect()
        counts = [count for _, count in flight.shown]
        for (prefill, _), h_TD in zip(flight.shown, h_SD.split(counts), strict=True):
            self._show(prefill.request, h_TD)
        if flight.answers:
            self.draw(flight.answers, flight.drafts + [[] for _ in flight.begun], logits_RV)

    def _append(self, running: list[Answer], drafts: list[list[int]]) -> Ints:
        """Make room for the last token of each running answer and its draft; the answers' rows."""
        rows = np.array([answer.row for answer in running], np.int64)
        last = np.array([answer.ids[-1] for answer in running], np.uint32)
        served = self.pool.step(rows, last, np.empty_like(rows))
        assert served == len(rows), "admission promised every answer its blocks"
        for row, draft in zip(rows.tolist(), drafts, strict=True):
            if draft:
                slots = self.pool.extend(row, len(draft))
                assert slots is not None, "a draft is no longer than the answer may become"
        return rows

    def _show(self, request: Request, h_TD: Tensor) -> None:
        if request.reader is None or request.error is not None:
            return
        try:
            request.reader.read(self.forwards, h_TD)
        except Exception as error:
            self.fail(request, error)

    def draw(self, running: list[Answer], drafts: list[list[int]], logits_RV: Tensor) -> None:
        """Draw the next token of each running answer, and those after it as far as its draft was right."""
        counts = np.array([1 + len(draft) for draft in drafts])
        places = [answer for answer, count in zip(running, counts, strict=True) for _ in range(count)]
        samplings = [answer.request.sampling for answer in places]
        seeds = np.array([answer.seed for answer in places], dtype=np.uint64)
        first = np.array([len(answer.ids) for answer in running])
        draws = Draws.of(samplings, uniforms(seeds, ranges(first, first + counts)))
        allowed = [self._allowed(answer, logits_RV.shape[1]) for answer in places]
        ids_R, logps_R = draw(logits_RV, draws, scores_of(logits_RV, samplings, allowed))
        drawn = zip(ids_R.tolist(), logps_R.tolist(), tops_of(logits_RV, samplings), strict=True)
        for answer, draft in zip(running, drafts, strict=True):
            self._take(answer, draft, list(islice(drawn, 1 + len(draft))))

    def _allowed(self, answer: Answer, vocab_size: int) -> npt.NDArray[np.bool_] | None:
        """Which tokens may come next, None: all. All too where the constraint fails: what is drawn is not told then."""
        request = answer.request
        if request.constrain is None or request.error is not None:
            return None
        try:
            if answer.constraint is None:
                answer.constraint = request.constrain()
            mask = answer.constraint.allowed()
            if mask.shape != (vocab_size,) or mask.dtype != np.bool_ or not mask.any():
                raise NOTHING_ALLOWED("constrain", size=vocab_size)
        except Exception as error:
            self.fail(request, error)
            return None
        return mask

    def _take(self, answer: Answer, draft: list[int], drawn: list[tuple[int, float, Top]]) -> None:
        """Add what was drawn up to where the draft was wrong or the answer is over; what is kept of the draft is then
        in the cache."""
        right = 0
        for token, logp, top in drawn:
            if not self._push(answer, token, logp, top) or draft[right : right + 1] != [token]:
                break
            right += 1
        if draft:
            self.pool.accept(answer.row, draft[:right])
            assert answer.lookup is not None
            answer.lookup.learn(len(draft), right)
            self.drafted += len(draft)
            self.accepted += right

    def _push(self, answer: Answer, token: int, logp: float, top: Top) -> bool:
        """Add a token to an answer; whether another may follow. One whose request is over stays as it is."""
        if answer.request.error is not None:
            return False
        try:
            answer.push(token, logp, top)
        except Exception as error:
            self.fail(answer.request, error)
            return False
        return answer.finish_reason is None
