"""What annotators are shown and what becomes of what they send, without HTTP.

A judgement says how many of the same item came before it, so that a form that was open twice is told apart: what was
sent twice is written once, and what says something else than another tab did meanwhile is shown again, not lost.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llama3.annotating.folder import Opened, locked
from llama3.annotating.items import Messages, PairItem, TextItem, is_left_first
from llama3.annotating.judgements import (
    SIDES,
    SKIP,
    STRENGTHS,
    Annotation,
    checked_edit,
    chosen_of,
    edit_of,
)
from llama3.errors import ConfigError, DataError
from llama3.evaluation.agreement import agreement_figures, places
from llama3.serving.two_models import TwoModels

NOBODY = ConfigError.declare("L3-ANN-070", "there is no annotator {name!r}", fix="one of {names}")
NO_SUCH_ITEM = ConfigError.declare("L3-ANN-071", "there is no such item", fix="go on with the next one")
NONE_OF_KIND = ConfigError.declare("L3-ANN-072", "there are no {kind} here", fix="open /")
MEANWHILE = DataError.declare(
    "L3-ANN-073",
    "this item was judged meanwhile: {verdict}",
    why="it is open in another tab",
    fix="leave it at that, or save again to replace it by what stands here",
)
BAD_FORM = DataError.declare("L3-ANN-074", "the form is not this page's", fix="open the page again and save there")
NEXT_OF_NOTHING = DataError.declare(
    "L3-ANN-075", "the dialog goes on after the better answer", fix="choose one, or leave what is said next empty"
)
NO_MODELS = DataError.declare(
    "L3-ANN-076", "no models answer here", why="the page was opened without them", fix="give --model twice"
)

Form = Mapping[str, str]
View = dict[str, Any]


class Desk:
    """The annotations in a folder, open for some annotators until `close`.

    Raises ArtifactError where another process has them open, DataError where a file is broken.
    """

    def __init__(
        self,
        folder: Path,
        annotators: Sequence[str],
        *,
        seed: int,
        pairs: Sequence[PairItem] = (),
        texts: Sequence[TextItem] = (),
        models: TwoModels | None = None,
    ) -> None:
        self.annotators, self.seed, self.models = tuple(annotators), seed, models
        self._lock = locked(folder)
        try:
            self.pairs: Opened[PairItem] = Opened(folder, "pairs", annotators, pairs)
            self.texts: Opened[TextItem] = Opened(folder, "check", annotators, texts)
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Let go of the files."""
        self.pairs.close()
        self.texts.close()
        self._lock.release()

    # What is shown ----------------------------------------------------------------------------------------------------

    def overview(self) -> View:
        """Who has judged how much of what."""
        rows = [
            {"annotator": name, "pairs": self._progress(self.pairs, name), "check": self._progress(self.texts, name)}
            for name in self.annotators
        ]
        return {"page": "overview", "annotators": rows}

    def agreement(self) -> View:
        """How far all who ever judged these pairs agree."""
        # Copies: figures are made beside the event loop, which goes on writing judgements.
        everybody = self.pairs.others | {name: dict(self.pairs.latest(name)) for name in self.annotators}
        return {"page": "agreement", "figures": agreement_figures(places(everybody))}

    def pair(self, name: str, item_id: str = "", form: Form | None = None) -> View:
        """A pair as the annotator sees it: the named one, else the next; with what stands in a form, else with what was
        said of it. Raises ConfigError."""
        item, view = self._item(self.pairs, "pairs", name, item_id)
        if item is None:
            return view
        left = self._left(name, item.id)
        said = self.pairs.latest(name).get(item.id)
        order = (left, 1 - left)
        shown = [item.texts[index] for index in order]
        return view | {
            "item": {
                "id": item.id,
                "messages": list(item.messages),
                "left": shown[0],
                "right": shown[1],
                "category": item.category,
            },
            "form": form or _filled(said, shown, left),
            "strengths": list(STRENGTHS),
            "goes_on": self.models is not None,
        }

    def text(self, name: str, item_id: str = "", form: Form | None = None) -> View:
        """A synthetic text, likewise."""
        item, view = self._item(self.texts, "check", name, item_id)
        if item is None:
            return view
        said = self.texts.latest(name).get(item.id)
        filled = {
            "number": str(0 if said is None else said.number + 1),
            "verdict": "" if said is None else said.verdict,
            "reason": "" if said is None else said.reason,
            "edited": item.text if said is None or said.edited is None else said.edited,
        }
        shown = {"id": item.id, "messages": list(item.messages), "text": item.text, "source": item.source}
        return view | {"item": shown, "form": form or filled}

    # What is said -----------------------------------------------------------------------------------------------------

    def judge_pair(self, name: str, item_id: str, form: Form) -> Annotation:
        """Write down what a form says of a pair. Raises DataError, ConfigError or OSError; nothing is written then."""
        item = self._named(self.pairs, name, item_id)
        _check_form(form, ("verdict", "edited_left", "edited_right", "next", "number"))
        verdict, side = chosen_of(form["verdict"])
        left = self._left(name, item.id)
        chosen = None if side is None else (left, 1 - left)[SIDES.index(side)]
        edits = {left: form["edited_left"], 1 - left: form["edited_right"]}
        said_next = form["next"].replace("\r\n", "\n").strip()
        if said_next and chosen is None:
            raise NEXT_OF_NOTHING("next")
        if said_next and self.models is None:
            raise NO_MODELS("next")
        edited = edit_of(chosen, item.texts, (edits[0], edits[1]))
        said = Annotation(
            item.id, int(form["number"]), verdict, _now(), edited, left=left, chosen=chosen, next=said_next or None
        )
        return _write(self.pairs, name, said)

    def judge_text(self, name: str, item_id: str, form: Form) -> Annotation:
        """Write down what a form says of a synthetic text, likewise."""
        item = self._named(self.texts, name, item_id)
        _check_form(form, ("verdict", "reason", "edited", "number"))
        verdict, reason = form["verdict"], form["reason"].replace("\r\n", "\n").strip()
        edited = checked_edit(verdict, item.text, form["edited"], reason)
        return _write(
            self.texts, name, Annotation(item.id, int(form["number"]), verdict, _now(), edited, reason=reason)
        )

    def to_go_on(self, said: Annotation) -> tuple[PairItem, Messages] | None:
        """The pair after whose better answer a dialog goes on, and its messages; None where it does not, or has."""
        if said.next is None or said.chosen is None or self.models is None:
            return None
        item = self.pairs.items[said.item]
        answer = item.texts[said.chosen] if said.edited is None else said.edited
        messages = (
            *item.messages,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": said.next},
        )
        return None if self.after(item, messages) else (item, messages)

    def after(self, item: PairItem, messages: Messages) -> PairItem | None:
        """The pair that goes on with an item by these messages."""
        return next(
            (one for one in self.pairs.items.values() if one.follows == item.id and one.messages == messages), None
        )

    def all_to_go_on(self) -> list[tuple[PairItem, Messages]]:
        """What was said next of all dialogs, and never answered: the process ended before."""
        said = [one for name in self.annotators for one in self.pairs.latest(name).values()]
        return [found for one in said if (found := self.to_go_on(one)) is not None]

    # ------------------------------------------------------------------------------------------------------------------

    def known(self, name: str) -> str:
        """The annotator. Raises ConfigError where there is none."""
        if name not in self.annotators:
            raise NOBODY("annotator", name=name[:40], names=list(self.annotators))
        return name

    def _left(self, name: str, item_id: str) -> int:
        return 0 if is_left_first(self.seed, name, item_id) else 1

    def _item(self, opened: Opened[Any], kind: str, name: str, item_id: str) -> tuple[Any, View]:
        self.known(name)
        if not opened.items:
            raise NONE_OF_KIND(kind, kind={"pairs": "pairs", "check": "texts to check"}[kind])
        if item_id and item_id not in opened.items:
            raise NO_SUCH_ITEM("item")
        item = opened.items[item_id] if item_id else opened.next_item(name)
        back = opened.last_judged(name, "" if item is None else item.id)
        progress = self._progress(opened, name)
        view = {"page": kind, "annotator": name, "progress": progress, "back": back, "item": None, "form": {}}
        return item, view

    def _named(self, opened: Opened[Any], name: str, item_id: str) -> Any:
        self.known(name)
        if item_id not in opened.items:
            raise NO_SUCH_ITEM("item")
        return opened.items[item_id]

    def _progress(self, opened: Opened[Any], name: str) -> dict[str, int]:
        said = opened.latest(name).values()
        return {"of": len(opened.items), "judged": len(said), "skipped": sum(one.verdict == SKIP for one in said)}


def _write(opened: Opened[Any], name: str, said: Annotation) -> Annotation:
    """The judgement as it stands in the file."""
    before = opened.latest(name).get(said.item)
    if before is not None and said.number == before.number and said.same_as(before):
        return before  # sent twice
    if said.number != (0 if before is None else before.number + 1):
        raise MEANWHILE("item", verdict=_told(before)) if before is not None else BAD_FORM("number")
    opened.say(name, said)
    return said


def _told(said: Annotation) -> str:
    if said.chosen is None:
        return said.verdict
    side = "A" if said.chosen == said.left else "B"
    return f"{side} is {said.verdict}" + (", edited" if said.edited is not None else "")


def _filled(said: Annotation | None, shown: Sequence[str], left: int) -> dict[str, str]:
    """The fields of the form of a pair."""
    form = {"number": "0", "verdict": "", "edited_left": shown[0], "edited_right": shown[1], "next": ""}
    if said is None:
        return form
    form |= {"number": str(said.number + 1), "verdict": said.verdict, "next": said.next or ""}
    if said.chosen is not None:
        side = SIDES[0 if said.chosen == left else 1]
        form["verdict"] = f"{side}:{said.verdict}"
        if said.edited is not None:
            form[f"edited_{side}"] = said.edited
    return form


def _check_form(form: Form, fields: Sequence[str]) -> None:
    number = form.get("number", "")
    if set(form) != set(fields) or not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise BAD_FORM("form")


def _now() -> str:
    created = time.time()
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="seconds")
