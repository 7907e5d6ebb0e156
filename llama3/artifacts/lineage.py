"""Where an artifact comes from: the tree of its parents, found by hash, up to the corpus and its sources.

A manifest names its parents by identity only, so artifacts may be moved together; parents are looked for
beside the artifact and in the given places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.tree import Tree

from llama3.artifacts.artifact import COMMIT, MANIFEST, Artifact, Manifest, read_manifest, sealed_hash
from llama3.errors import ArtifactError, printable

NO_ARTIFACTS = ArtifactError.declare(
    "L3-ART-010", "this run has no artifacts", why="no stage has finished yet", fix="run it first"
)
UNLINKED = ArtifactError.declare(
    "L3-ART-015",
    "this run does not tell which of its artifacts are current",
    why="the links to them are gone: it was copied without them, as cp -L does",
    fix="copy it with cp -a, or let `llama3 run {path}` link what is there; one artifact can be asked about as it is, "
    "such as {example}",
)

State = Literal["ok", "damaged", "missing"]


@dataclass(frozen=True, slots=True)
class LineageNode:
    """One artifact in the tree. `role` is the part it played for the node below; None for the artifact
    asked about.
    """

    role: str | None
    hash: str
    state: State
    path: Path | None = None
    manifest: Manifest | None = None
    parents: tuple[LineageNode, ...] = ()
    problem: str = ""

    def to_json(self, told: set[str] | None = None) -> dict[str, Any]:
        """The tree as JSON values; `parents` nest. An artifact that several others were made from has its own parents
        where it first comes; after that it is `repeated`.
        """
        told = set() if told is None else told
        made, repeated = self.manifest, self.hash in told
        told.add(self.hash)
        return {
            "role": self.role,
            "hash": self.hash,
            "state": self.state,
            "path": None if self.path is None else str(self.path),
            "type": made and made.type,
            "stage": made and made.stage,
            "created": made and made.created,
            "config_hash": made and made.config_hash,
            "code": made and made.code.model_dump(),
            "plugins": made and [use.model_dump() for use in made.plugins],
            "metrics": made and made.metrics,
            "problem": self.problem or None,
            "repeated": repeated,
            "parents": [] if repeated else [parent.to_json(told) for parent in self.parents],
        }

    def walk(self) -> Iterator[LineageNode]:
        """This node and all above it, depth first, each once."""
        yield from each_once([self])


def each_once(nodes: Iterable[LineageNode]) -> Iterator[LineageNode]:
    """The nodes and all above them, depth first, each artifact once: rounds of training share most of what they are
    made from, so that the paths to it double with every round."""
    seen: set[str] = set()
    ahead = list(nodes)[::-1]
    while ahead:
        node = ahead.pop()
        if node.hash not in seen:
            seen.add(node.hash)
            yield node
            ahead.extend(node.parents[::-1])


def trace(path: str | Path, *, search: Iterable[str | Path] = (), verify: bool = False) -> list[LineageNode]:
    """The lineage of what lies at `path`: an artifact, a file inside one, or a run directory.

    For a run directory there is one tree per current artifact that no other current one was made from, the release
    first. Parents are looked for beside each artifact and in the `search` directories.
    `verify` hashes every payload on the way; otherwise sizes are checked. Raises ArtifactError
    (L3-ART-001, -010, -015) when there is nothing to trace.
    """
    starts = _starts(Path(path).resolve())
    folders = {start.parent for start in starts} | {Path(place).resolve() for place in search}
    known = _index(folders) | {_identity(start): start for start in starts}
    found: dict[str, LineageNode] = {}
    nodes = [_node(None, _identity(start), known, verify, found) for start in starts]
    used = {parent.hash for node in found.values() for parent in node.parents}
    ends = [node for node in nodes if node.hash not in used]
    return sorted(ends, key=lambda node: node.manifest is None or node.manifest.type != "release")


def _starts(path: Path) -> list[Path]:
    """The artifact directories that `path` means."""
    folder = path / "artifacts"
    if folder.is_dir():
        links = sorted(link for link in folder.iterdir() if link.is_symlink() and link.is_dir())
        if not links:
            there = sorted(manifest.parent for manifest in folder.glob(f"*/{MANIFEST}"))
            raise UNLINKED(path, path=path, example=there[-1]) if there else NO_ARTIFACTS(path)
        return [link.resolve() for link in links]
    inside = next((parent for parent in (path, *path.parents) if (parent / MANIFEST).is_file()), None)
    return [Artifact(path).location if inside is None else inside]


def _index(folders: Iterable[Path]) -> dict[str, Path]:
    """Artifacts lying directly in `folders`, by the identity that was sealed: so one whose manifest was changed since
    is found, and found to be damaged.
    """
    found: dict[str, Path] = {}
    for folder in sorted(folders):
        for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
            if not manifest.parent.is_symlink():
                found.setdefault(_identity(manifest.parent), manifest.parent)
    return found


def _identity(folder: Path) -> str:
    """What is sealed, or where no seal is left what the manifest says of itself."""
    with suppress(ArtifactError):
        if not (folder / COMMIT).exists():
            return read_manifest(folder).hash
    return sealed_hash(folder)


def _node(
    role: str | None, identity: str, known: dict[str, Path], verify: bool, found: dict[str, LineageNode]
) -> LineageNode:
    """The node of an artifact, looked at once and kept in `found`."""
    if identity not in found:
        # A manifest cannot name itself as an ancestor without breaking blake3; this ends the search all the same.
        found[identity] = LineageNode(None, identity, "damaged", problem="it is its own ancestor")
        found[identity] = _look(identity, known, verify, found)
    return replace(found[identity], role=role)


def _look(identity: str, known: dict[str, Path], verify: bool, found: dict[str, LineageNode]) -> LineageNode:
    path = known.get(identity)
    if path is None:
        return LineageNode(None, identity, "missing", problem="not found beside the artifacts made from it")
    manifest, problem = _open(path, verify)
    above = manifest.parents if manifest else ()
    parents = tuple(_node(parent.role, parent.hash, known, verify, found) for parent in above)
    return LineageNode(None, identity, "damaged" if problem else "ok", path, manifest, parents, problem)


def _open(path: Path, verify: bool) -> tuple[Manifest | None, str]:
    """The manifest of an artifact, as far as it can be read, and what is wrong."""
    try:
        artifact = Artifact(path)
        if verify:
            artifact.verify()
        return artifact.manifest, ""
    except ArtifactError as error:
        with suppress(ArtifactError):
            return read_manifest(path), str(error)
        return None, str(error)


def summary(nodes: Sequence[LineageNode], *, verified: bool = False) -> list[tuple[str, str]]:
    """The lineage in a few rows (what, facts), for whoever does not want the tree: what was made, from what, by which
    code and plugins, and whether all of it is there.
    """
    all_nodes = list(each_once(nodes))
    made = [node.manifest for node in all_nodes if node.manifest is not None]
    asked = Counter(f"{node.manifest.type} by {node.manifest.stage}" if node.manifest else node.hash for node in nodes)
    rows = [("of", ", ".join(name if count == 1 else f"{count} {name}" for name, count in asked.items()))]
    rows += [("begins with", text) for text in _beginnings(all_nodes)]
    kinds = Counter(manifest.type for manifest in made)
    rows.append(("artifacts", f"{len(all_nodes)}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"))
    rows.append(("state", _state(all_nodes, verified)))
    if made:
        rows.append(("made", " to ".join(dict.fromkeys([min(m.created for m in made), max(m.created for m in made)]))))
        rows.append(("code", ", ".join(dict.fromkeys(_code(manifest) for manifest in made))))
    if used := sorted({f"{use.family}/{use.name} ({use.dist} {use.version})" for m in made for use in m.plugins}):
        rows.append(("plugins", ", ".join(used)))
    return rows


def _beginnings(nodes: Iterable[LineageNode]) -> Iterator[str]:
    """The texts and the models of others that nothing of ours came before."""
    for node in nodes:
        yield from (f"{name}: {size}" for name, size in _sources(node))
        if node.manifest is not None and node.manifest.stage == "adopt":
            yield f"the model {node.manifest.metrics.get('name', node.hash[:12])}"


def _state(nodes: Iterable[LineageNode], verified: bool) -> str:
    spoilt = [node for node in nodes if node.state != "ok"]
    if not spoilt:
        return "all there, every byte verified" if verified else "all there (--verify hashes every byte)"
    counts = Counter(node.state for node in spoilt)
    names = ", ".join(node.path.name if node.path else node.hash[:12] for node in spoilt)
    return f"{', '.join(f'{count} {state}' for state, count in counts.items())}: {names}"


def _code(manifest: Manifest) -> str:
    return f"llama3 {manifest.code.version}" + (f" at {manifest.code.git[:12]}" if manifest.code.git else "")


def render(node: LineageNode) -> Tree:
    """The lineage as a Rich tree: the artifact at the root, what it was made from below it."""
    shown: set[str] = set()
    tree = Tree(_label(node))
    _grow(tree, node, shown)
    return tree


def _grow(tree: Tree, node: LineageNode, shown: set[str]) -> None:
    if node.hash in shown:
        if node.parents:
            tree.add("[dim](see above)[/]")
        return
    shown.add(node.hash)
    for parent in node.parents:
        _grow(tree.add(_label(parent)), parent, shown)
    for name, size in _sources(node):
        tree.add(f"[dim]source[/] {_safe(name)}  [dim]{_safe(size)}[/]")


def _label(node: LineageNode) -> str:
    role = f"[dim]{_safe(node.role)}:[/] " if node.role else ""
    if node.manifest is None:
        return f"{role}[red]{node.state}[/] {node.hash[:12]}"
    made = node.manifest
    mark = "" if node.state == "ok" else f"  [red]{node.state}[/]"
    plugins = "".join(f"  {use.family}/{use.name} ({use.dist} {use.version})" for use in made.plugins)
    place = node.path.name if node.path else ""
    facts = f"[dim]{node.hash[:12]}  {_safe(place)}  {_safe(made.created)}{_safe(plugins)}[/]"
    return f"{role}[bold]{_safe(made.type)}[/] by {_safe(made.stage)}  {facts}{mark}"


def _sources(node: LineageNode) -> list[tuple[str, str]]:
    """What a corpus trains on, by source (the stage "train" of its funnel: stage -> source -> counts)."""
    if node.manifest is None or node.manifest.type != "corpus":
        return []
    funnel = node.manifest.metrics.get("funnel")
    train = funnel.get("train") if isinstance(funnel, dict) else None
    return [(name, _counts(counts)) for name, counts in sorted(train.items())] if isinstance(train, dict) else []


def _counts(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in sorted(value.items()))
    return str(value)


def _safe(text: str) -> str:
    """Somebody's text, without markup and control characters."""
    return escape(printable(text, lines=False))
