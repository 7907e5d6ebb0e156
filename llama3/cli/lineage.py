"""`llama3 lineage`: what an artifact was made from, down to the documents."""

from __future__ import annotations

from typing import Annotated

import typer

from llama3.cli.output import JsonOption, print_json, print_table


def lineage(
    path: Annotated[str, typer.Argument(help="A run, an artifact, a release, or a file in one.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every payload on the way.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what something was made from. Exit code 1 where a part of it is damaged; --verify reads contents."""
    from llama3.artifacts.lineage import render, summary, trace

    trees = trace(path, verify=verify)
    if json:
        print_json({"lineage": [tree.to_json() for tree in trees]})
    else:
        from llama3.artifacts.progress import PatientConsole

        print_table(summary(trees, verified=verify))
        console = PatientConsole(highlight=False)
        for tree in trees:
            console.print()
            console.print(render(tree))
    if any(node.state == "damaged" for tree in trees for node in tree.walk()):
        raise typer.Exit(1)
