"""The run directory: executes stages, keeps what they made, skips what is already there.

    runs/<name>/
      config.yaml origin.json plugins.json env.json    what was asked, and with what
      precision.json                                   what the machine computes faster in, where that was left open
      events.jsonl metrics.jsonl samples.jsonl         append-only, readable mid-run
      artifacts/<key>-<request>/                       finished artifacts; artifacts/<key> links to the current one
      artifacts/<key>-<request>-<n>/                   one of which a part had failed, made again (see `stages.stage`)
      scratch/<key>-<request>/                         of unfinished stages, kept for the next try
      reliability/                                     what interrupted training (llama3.training.ledger)
      damaged/                                         artifacts that failed verification, moved aside, if any
      report.html report.json

`<request>` is the hash of (stage, inputs, options, plugins). So a changed config makes a new artifact
beside the old one, changing it back finds the old one again, and nothing finished is ever overwritten or
removed.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.markup import escape

from llama3 import _core
from llama3.artifacts import environment, logbook
from llama3.artifacts.artifact import (
    STRAY,
    Artifact,
    Parent,
    PluginUse,
    StageRequest,
    strays_of,
    write_manifest,
)
from llama3.artifacts.files import (
    append_json_line,
    canonical_json,
    fsync_dir,
    fsync_tree,
    link_atomic,
    publish,
    read_json_lines,
    sweep,
    temporary_beside,
    write_bytes_atomic,
    write_json_atomic,
)
from llama3.artifacts.lock import LOCK, RunLock
from llama3.artifacts.progress import Display
from llama3.artifacts.signals import StopSignals
from llama3.artifacts.stages import Stage, StageOutput
from llama3.errors import ArtifactError, Interrupted
from llama3.full_disk import is_disk_full, why_full
from llama3.plugins.targets import is_stop, tried_to_exit

NOT_WRITABLE = ArtifactError.declare(
    "L3-RUN-002",
    "cannot work in this run directory",
    why="{error}",
    fix="choose another run.dir, or make this one writable",
)
DISK_FULL = ArtifactError.declare(
    "L3-RUN-003",
    "{key} could not be written",
    why="{error} ({free} MiB are free there); the unfinished output was removed",
    fix="give it room, and the same command again; finished stages are kept",
)
NOT_A_RUN = ArtifactError.declare(
    "L3-RUN-005",
    "this directory is somebody's own, and no run's",
    why="it holds {listing}",
    fix="choose another run.name or run.dir (for an audit: --out): a run works in a directory of its own",
)
STOPPED_AFTER = Interrupted.declare(
    "L3-RUN-006",
    "stopped after {key}",
    why="finished stages are kept",
    fix="give the same command to go on",
)
STOPPED = Interrupted.declare(
    "L3-RUN-004",
    "stopped during {key}",
    why="finished stages and checkpoints are kept",
    fix="give the same command to go on",
)


RECORDS = (
    "config.yaml",
    "env.json",
    "events.jsonl",
    "origin.json",
    "plugins.json",
    "precision.json",
    "report.html",
    "report.json",
)
"""What is written beside the artifacts; a killed process may leave temporaries of these."""
_OF_RECORDS = re.compile(rf"({'|'.join(map(re.escape, RECORDS))})\.tmp-[0-9a-f]{{8}}")
_OF_ARTIFACTS = re.compile(r"[^.]+(-[0-9a-f]{12})?\.tmp-[0-9a-f]{8}")


class RunDir:
    """One run on disk. Reading needs nothing; the first `execute` (or `with`) takes the lock and sweeps
    leftovers.
    """

    def __init__(self, path: str | os.PathLike[str], display: Display | None = None) -> None:
        self.path = Path(path).absolute()
        self.artifacts = self.path / "artifacts"
        self.scratch = self.path / "scratch"
        self.damaged = self.path / "damaged"
        self.display = display or Display()
        self.signals = StopSignals()
        self._lock: RunLock | None = None

    # -- opening and closing ---------------------------------------------------------------------------

    def open(self) -> RunDir:
        """Take the lock, make the layout, remove what a killed process left.

        Raises ArtifactError: where another process works there, and for a directory that holds anything and that no
        run has made.
        """
        if self._lock is not None:
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._require_ours()
            self._lock = RunLock(self.path)  # first: from now on the directory is a run's
            for folder in (self.artifacts, self.scratch):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            self.close()
            raise NOT_WRITABLE(self.path, error=error) from error
        swept = sweep(self.path, _OF_RECORDS) + sweep(self.artifacts, _OF_ARTIFACTS)
        if swept:
            self.event("swept", names=swept)
        write_json_atomic(self.path / "env.json", environment.describe())
        return self

    def _require_ours(self) -> None:
        names = {entry.name for entry in self.path.iterdir()}
        made = LOCK in names and (self.path / LOCK).is_file() and (self.artifacts.is_dir() or names == {LOCK})
        if names and not made:
            raise NOT_A_RUN(self.path, listing=sorted(names)[:5])

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RunDir:
        self.signals.__enter__()
        try:
            return self.open()
        except BaseException:
            self.signals.__exit__(None, None, None)
            raise

    def __exit__(self, *_: object) -> None:
        self.close()
        self.signals.__exit__(None, None, None)

    # -- records ---------------------------------------------------------------------------------------

    def describe(self, config_yaml: str, origins: Mapping[str, Any], plugins: Sequence[PluginUse]) -> None:
        """Write down what was asked: config.yaml (effective), origin.json, plugins.json."""
        self.open()
        write_bytes_atomic(self.path / "config.yaml", config_yaml.encode())
        write_json_atomic(self.path / "origin.json", dict(origins))
        write_json_atomic(self.path / "plugins.json", [use.model_dump() for use in plugins])
        self.event("config", blake3=_core.blake3_bytes(config_yaml.encode()))

    def event(self, kind: str, **fields: Any) -> None:
        """Append a line to events.jsonl. Never fails a run: a full disk costs the line, not the work."""
        row = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, **fields}
        with suppress(OSError):
            append_json_line(self.path / "events.jsonl", row)

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """The rows of `<name>.jsonl`, such as "metrics"; lines that a crash cut short are left out."""
        return read_json_lines(self.path / f"{name}.jsonl")

    def rows_of(self, name: str, made: Mapping[str, Artifact]) -> Iterator[dict[str, Any]]:
        """The rows of `<name>.jsonl` that tell of the artifacts in `made`, each with its `key`."""
        return logbook.rows_of(self.path, name, made)

    def seconds_of(self, made: Mapping[str, Artifact]) -> dict[str, float]:
        """How long each artifact in `made` took, by key, where that is known."""
        return logbook.seconds_of(self.path, made)

    # -- artifacts -------------------------------------------------------------------------------------

    def current(self) -> dict[str, Artifact]:
        """The artifacts of the last execution by key. Damaged ones are left out. Needs no lock."""
        found = {}
        for link in sorted(self.artifacts.glob("*")):
            if link.is_symlink() and link.is_dir():
                with suppress(ArtifactError):
                    found[link.name] = Artifact(link)
        return found

    def execute(
        self,
        stage: Stage,
        inputs: Mapping[str, Artifact],
        options: BaseModel | None = None,
        key: str | None = None,
        plugins: Sequence[PluginUse] = (),
    ) -> Artifact:
        """The stage's artifact: an existing one whose request is equal and whose bytes verify, or a new one.

        `key` names it within the run (default: the stage's name; a round gives its number). A damaged
        artifact is moved to damaged/ and made again. One that lacks parts (`Stage.failures`) is made again beside
        itself, and stays current where the same parts fail again. Raises what the stage raises; ArtifactError
        when the disk is full; Interrupted on Ctrl-C or SIGTERM. In all cases nothing unfinished becomes visible,
        finished artifacts and the stage's scratch stay, and the same call goes on from there.
        """
        self.open()
        stage.check(inputs)
        asked = {} if options is None else options.model_dump(mode="json")
        request = StageRequest(
            stage=stage.name,
            type=stage.output,
            parents=[Parent(role=role, hash=artifact.hash) for role, artifact in inputs.items()],
            config_hash=_core.blake3_bytes(canonical_json(asked)),
            plugins=list(plugins),
        )
        key = key or stage.name
        name = f"{key}-{request.hash[:12]}"
        made = self._newest(name, request)
        lacks = {} if made is None else stage.failures(made.metrics)
        if made is None or lacks:

            def run(out: StageOutput) -> Artifact | None:
                """The artifact that is there, where the same parts failed again."""
                stage.run(inputs, options, out)
                manifest = write_manifest(out.path, request, environment.code(), out.metrics)
                return made if lacks and stage.failures(manifest.metrics) == lacks else None

            made = self._make(key, name, run, made, list(lacks))
        else:
            self.event("stage_skipped", stage=stage.name, key=key, hash=made.hash)
            self.display.note(f"[green]✓[/] {key}  [dim]nothing to do ({made.hash[:12]})[/]")
        self._point(key, made.location.name)
        self._forget_scratch(key)
        return made

    def name(self, key: str, artifact: Artifact) -> None:
        """Let `key` name an artifact of this run that was made under another key."""
        self._point(key, artifact.location.name)

    def _point(self, key: str, name: str) -> None:
        """Let `key` be a link to `name`. Where a run was copied without its links, a copy of an artifact lies there: it
        goes aside."""
        link = self.artifacts / key
        if link.is_dir() and not link.is_symlink():
            self.event("link_restored", key=key, moved_to=str(self._set_aside(link, key)))
        link_atomic(link, name)

    def withdraw(self, key: str) -> None:
        """`key` is no longer what this run made; the artifact that it named stays beside."""
        link = self.artifacts / key
        if link.is_symlink():
            link.unlink()
            fsync_dir(self.artifacts)
            self.event("withdrawn", key=key)

    def _newest(self, name: str, request: StageRequest) -> Artifact | None:
        """The artifact that answers `request`: of several, each made again for what the one before lacked, the last."""
        found = (self._reuse(self.artifacts / each, request) for each in reversed(self._attempts(name)))
        return next((artifact for artifact in found if artifact is not None), None)

    def _attempts(self, name: str) -> list[str]:
        """`name` itself and NAME-2, NAME-3 ..., as far as they are there."""
        numbered = [(entry, entry.removeprefix(f"{name}-")) for entry in os.listdir(self.artifacts)]
        again = {int(number): entry for entry, number in numbered if number != entry and number.isdecimal()}
        return [name, *(again[number] for number in sorted(again))]

    def _reuse(self, target: Path, request: StageRequest) -> Artifact | None:
        """The artifact at `target` if it answers `request` and every byte verifies; a damaged one goes
        aside.
        """
        if not os.path.lexists(target):
            return None
        try:
            artifact = self._without_strays(target)
            artifact.verify()
            if artifact.manifest.request.hash == request.hash:
                return artifact
            what = f"{target}: the manifest answers another request"
        except ArtifactError as error:
            what = str(error)
        aside = self._set_aside(target, target.name)
        self.event("artifact_damaged", path=str(target), moved_to=str(aside), what=what)
        self.display.note(f"[yellow]![/] {target.name} is damaged; kept as {escape(str(aside))}, made again")
        return None

    def _without_strays(self, target: Path) -> Artifact:
        """The artifact, after what no stage wrote was moved out of it: that is no reason to make it again."""
        try:
            return Artifact(target)
        except ArtifactError as error:
            if {problem.code for problem in error.problems} != {STRAY.code}:
                raise
            for stray in strays_of(target):
                aside = self._set_aside(stray, f"{target.name}-{stray.name}")
                self.event("stray_file", path=str(stray), moved_to=str(aside))
                self.display.note(
                    f"[yellow]![/] {escape(stray.name)} was not made by this run; moved to {escape(str(aside))}"
                )
            return Artifact(target)

    def _set_aside(self, path: Path, name: str) -> Path:
        """Move something into damaged/ under a name that is free; where it lies then."""
        self.damaged.mkdir(exist_ok=True)
        free = (place for n in range(1, 1_000_000) if not os.path.lexists(place := self.damaged / f"{name}-{n}"))
        aside = next(free)
        publish(path, aside)
        fsync_dir(path.parent)
        return aside

    def _make(
        self,
        key: str,
        name: str,
        run: Callable[[StageOutput], Artifact | None],
        earlier: Artifact | None,
        again: Sequence[str],
    ) -> Artifact:
        """Run a stage into a temporary directory and publish it, unless `run` tells of one that stays: as `name`, or
        beside `earlier`, of which the parts `again` failed."""
        target = self.artifacts / (name if earlier is None else self._free(name))
        temporary = temporary_beside(target)
        scratch = self.scratch / name
        scratch.mkdir(exist_ok=True)
        started = time.monotonic()
        try:
            # The handler stands before the stage is announced: whoever reads of its start may stop it.
            with self.signals:
                after = {} if earlier is None else {"after": earlier.location.name, "again": again}
                self.event("stage_start", key=key, **logbook.begun(self.path, target.name), **after)
                self.display.note(
                    f"[cyan]▸[/] {key}" + (f"  [dim]again: {escape(', '.join(again))}[/]" if again else "")
                )
                temporary.mkdir()
                kept = run(self._output(key, temporary, scratch, earlier))
                if kept is None:
                    fsync_tree(temporary)
                    publish(temporary, target)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            self._fail(key, error, artifact=target.name, seconds=round(time.monotonic() - started, 3))
            raise
        seconds = round(time.monotonic() - started, 3)
        if kept is None:
            self.event("stage_done", key=key, artifact=target.name, seconds=seconds)
            self.display.note(f"[green]✓[/] {key}  [dim]{seconds:.1f} s[/]")
        else:
            shutil.rmtree(temporary, ignore_errors=True)
            self.event("stage_unmended", key=key, hash=kept.hash, seconds=seconds)
            self.display.note(f"[yellow]![/] {key}  [dim]failed as before ({kept.hash[:12]}), {seconds:.1f} s[/]")
        if self.signals.seen:  # something swallowed the exception that a signal had raised
            raise STOPPED_AFTER(self.path, key=key)
        return kept or Artifact(target)

    def _free(self, name: str) -> str:
        """The name of the next attempt."""
        _, _, number = self._attempts(name)[-1].removeprefix(name).partition("-")
        return f"{name}-{int(number or 1) + 1}"

    def _forget_scratch(self, key: str) -> None:
        """Remove the stage's in-stage checkpoints, also those of a process killed right after it
        published.
        """
        own = re.compile(rf"{re.escape(key)}-[0-9a-f]{{12}}")
        for leftover in list(self.scratch.iterdir()):
            if own.fullmatch(leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)

    def _output(self, key: str, temporary: Path, scratch: Path, earlier: Artifact | None) -> StageOutput:
        def record(kind: str, **fields: Any) -> None:
            self.event(kind, key=key, **fields)

        return StageOutput(temporary, scratch, self.path, record=record, display=self.display, earlier=earlier)

    def _fail(self, key: str, error: BaseException, **facts: Any) -> None:
        """Record a stage's failure; turn a full disk and an interrupt into errors that say what to do."""
        stopped = is_stop(error) or isinstance(error, Interrupted) or self.signals.seen
        kind = "stage_interrupted" if stopped else "stage_failed"
        self.event(kind, key=key, error=type(error).__name__, what=str(error), **facts)
        if stopped and not isinstance(error, Interrupted):
            raise STOPPED(self.path, key=key) from error
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise tried_to_exit(error) from error
        if is_disk_full(error):
            free = shutil.disk_usage(self.path).free // 2**20
            raise DISK_FULL(self.path, key=key, error=why_full(error), free=free) from error
