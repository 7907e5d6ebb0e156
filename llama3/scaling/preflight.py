"""What can be known to be wrong with a study before any work. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from llama3.checkpoints.layouts import layout_of
from llama3.config import Loaded
from llama3.config.schema import PhaseSection
from llama3.errors import ConfigError, LlamaError, Problem
from llama3.scaling.runs import runs_of, section_of, study_problems
from llama3.tokenizer import Tokenizer

NO_TRAINED = ConfigError.declare("L3-SCL-007", "{path}: {what}", why="{why}", fix="{fix}")


def require_sound(loaded: Loaded) -> list[str]:
    """Notes on a study that can be carried out. Raises with everything that is wrong with another, of the class of its
    problems."""
    config = loaded.config
    section = section_of(config)
    path = config.tokenizer.path
    vocab_size = config.tokenizer.vocab_size if path is None else Tokenizer.load(path).vocab_size
    problems = [*study_problems(config, vocab_size, loaded.place), *_trained_problems(loaded)]
    if problems:
        raise ConfigError.of(problems)
    runs = runs_of(config, vocab_size)
    sizes = [run.parameters for run in runs]
    told = (
        f"{len(runs)} runs of {min(sizes):,} to {max(sizes):,} parameters, {sum(run.flops for run in runs):.3g} FLOPs"
    )
    notes = [told]
    if config.pretrain.phases != [PhaseSection()]:
        notes.append("pretrain.phases play no part: each run of a study has one phase")
    if len(section.budgets) * section.sizes * section.seeds > len(runs):
        notes.append("some budgets have fewer sizes than scale.sizes: widths go in steps of one attention head")
    return notes


def _trained_problems(loaded: Loaded) -> Iterator[Problem]:
    """Further models must be there."""
    for number, path in enumerate(section_of(loaded.config).trained):
        try:
            layout_of(path)
        except LlamaError as error:
            for found in error.problems:
                where = loaded.place(("scale", "trained", number))
                yield NO_TRAINED.problem(where, path=path, what=found.what, why=found.why, fix=found.fix)
