"""A search of mixes and a probe of a source in words and rows, as the command line and their pages show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama3.evaluation.templates import style, template
from llama3.scaling.shares import told_mix
from llama3.scaling.table import figure

SEARCH_HEAD = ("RANK", "MIX", "VALUE", "GAIN", "INTERVAL", "BEST", "SHARES")
GAINS_HEAD = ("SUITE", "ITEMS", "CONTROL", "PROBE", "GAIN", "INTERVAL", "")
READ_HEAD = ("MIX", "SOURCE", "SHARE", "TIMES READ")


def search_rows(told: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The mixes, the best one first."""
    for row in told["mixes"]:
        own = row["interval"] is None
        yield (
            str(row["rank"]),
            row["name"],
            f"{row['value']:.4f}",
            "" if own else f"{row['gain']:+.4f}",
            _ends(row["interval"]),
            f"{100 * row['best']:.0f} %",
            told_mix(row["mix"]),
        )


def gain_cells(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Suite by suite, an arm against another."""
    for row in rows:
        yield (
            row["suite"],
            f"{row['items']:,}",
            f"{row['reference']:.4f}",
            f"{row['value']:.4f}",
            f"{row['gain']:+.4f}",
            _ends(row["interval"]),
            row["verdict"],
        )


def _ends(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:+.4f}, {ends[1]:+.4f}]"


def search_words(told: Mapping[str, Any]) -> str:
    """What came out."""
    best = told["mixes"][0]
    if told["chosen"] == best["name"] != "own":
        return f"{best['name']} is better than the run's own mix: {told_mix(best['mix'])}"
    if best["name"] == "own":
        return "no mix came out before the run's own"
    return f"{best['name']} came first, but is not told apart from the run's own mix: more seeds or steps would tell"


def proxy_words(told: Mapping[str, Any]) -> str:
    """The models that tell."""
    size = told["proxy"]
    runs = len(told["mixes"]) * told["seeds"]
    return (
        f"{runs} trainings of {figure(size['parameters'])} parameters on {figure(size['tokens'])} tokens, "
        f"{runs * size['flops']:.3g} FLOPs: {told['seeds']} seeds of each mix"
    )


def objective_words(told: Mapping[str, Any]) -> str:
    """What ranks."""
    return f"{told_mix(told['objective'])}; {told['better']} is better"


def render_search(told: Mapping[str, Any]) -> str:
    """`mixes.html`."""
    read = [
        (row["name"], source, f"{100 * share:.3g} %", f"{row['epochs'][source]:.3g}")
        for row in told["mixes"]
        for source, share in row["mix"].items()
    ]
    note = (
        "VALUE is the objective. GAIN is against the run's own mix; its interval is of 95 % for all mixes together. "
        "BEST: how often the mix is the best one when items and the luck of training are drawn again."
    )
    tables = [
        ("ranking", "Ranking", note, SEARCH_HEAD, list(search_rows(told))),
        ("read", "How often the whole run would read each source", "Small models see less text.", READ_HEAD, read),
    ]
    for row in told["mixes"][:3]:
        if row["suites"]:
            title = f"{row['name']} against the run's own mix, suite by suite"
            cells = list(gain_cells(row["suites"]))
            tables.append((f"suites-{row['rank']}", title, told_mix(row["mix"]), GAINS_HEAD, cells))
    facts = [("trained", proxy_words(told)), ("ranked by", objective_words(told))]
    return _page("Mixes of sources", search_words(told), facts, tables)


def probe_words(told: Mapping[str, Any]) -> str:
    """What came out, on text of other sources."""
    counts = dict.fromkeys(("better", "worse", "not told apart"), 0)
    for row in told["suites"]:
        counts[row["verdict"]] += 1
    listed = ", ".join(f"{verdict}: {count}" for verdict, count in counts.items() if count)
    return f"{100 * told['share']:.3g} % of {told['source']} in the anneal against none: suites {listed}"


def probe_facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How it was measured."""
    return [
        ("base", told["base"]),
        ("anneal", f"{told['steps']:,} steps, {figure(told['tokens'])} tokens, rate from {told['lr']:.3g} to 0"),
        ("control", told_mix(told["control"])),
        ("probe", told_mix(told["probe"])),
        (f"times {told['source']} is read", f"{told['epochs']:.3g}"),
        ("seeds", str(told["seeds"])),
    ]


def render_probe(told: Mapping[str, Any]) -> str:
    """`probe.html`."""
    note = "GAIN is of the probe over the control, with its 95 % interval over items and the luck of training."
    tables = [("suites", "Suite by suite", note, GAINS_HEAD, list(gain_cells(told["suites"])))]
    return _page(f"Probe of {told['source']}", probe_words(told), probe_facts(told), tables)


def _page(title: str, words: str, facts: Sequence[tuple[str, str]], tables: Sequence[tuple[Any, ...]]) -> str:
    page = template("llama3.scaling", "mixes.html.jinja").render(
        style=style(), title=title, words=words, facts=facts, tables=tables
    )
    return page.encode("utf-8", "replace").decode()
