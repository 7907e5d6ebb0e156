"""What a recipe starts from: the documents of all sources, their tokens, and the user's own rows where none of them is
held out."""

from __future__ import annotations

from collections.abc import Mapping

from llama3.artifacts import Artifact
from llama3.config import Config
from llama3.data.curate import curate
from llama3.data.curating import CurateOptions
from llama3.data.holding_out import enough_for_one, held_out_documents
from llama3.data.imported import sharded
from llama3.data.ledger import lost_input
from llama3.data.plan import TokenPlan
from llama3.evaluation.contamination import require_clean
from llama3.evaluation.stages import ContaminationOptions, contamination
from llama3.execution import Executor
from llama3.synthesis.stage import SynthesisOptions, synthesise, told_signs
from llama3.tasks.contradictions import told_contradictions
from llama3.tasks.user_data import UserDataOptions, own_data

Searched = Mapping[str, Artifact]
"""Where held-out tasks must not stand, beside the data of post-training: the corpus, and the tokenizer to read it."""


def curated(make: Executor, config: Config) -> Artifact:
    """The documents of all sources; where so few are left that none happens to be held out, one of them is.

    What of the sources could not be read is told every time: training on less than was given is the user's decision.
    """
    options, synthetic = CurateOptions.of(config), synthesised(make, config)
    corpus = make(curate, "curate", options, synthetic=synthetic)
    if not held_out_documents(corpus):
        more = options.model_copy(update={"held_out": enough_for_one(corpus)})
        corpus = make(curate, "curate", more, synthetic=synthetic)
    make.warn(lost_input(corpus.metrics))
    return corpus


def synthesised(make: Executor, config: Config) -> Artifact | None:
    """The text that a model makes of the sources, if it shall (`data.synthetic`). That it is too alike or too
    much is told every time."""
    if config.data.synthetic is None:
        return None
    made = make(synthesise, "synthetic", SynthesisOptions.of(config))
    make.warn(told_signs(made.metrics))
    return made


def tokenised(make: Executor, config: Config, corpus: Artifact, tokenizer: Artifact) -> Artifact:
    """The shards. A mix of a later phase that cannot be read from them is refused now, and not when its turn comes."""
    shards = sharded(make, config, corpus, tokenizer)
    mixes = {f"pretrain.phases.{number}.mix": phase.mix for number, phase in enumerate(config.pretrain.phases)}
    TokenPlan.load(shards.path).require({where: mix for where, mix in mixes.items() if mix})
    return shards


def own_rows(make: Executor, config: Config, searched: Searched) -> tuple[Artifact, Artifact] | tuple[None, None]:
    """The user's own rows, if any (`post_training.data`), and the report of held-out tasks in them. Rows that hold one
    are refused; rows that teach the contrary of each other are told of every time."""
    if config.post_training.data is None:
        return None, None
    options = UserDataOptions.of(config)
    given = make(own_data(options), "own_data", options)
    contrary = told_contradictions(given.metrics.get("contradictions", {}), config.post_training.data)
    make.warn([f"{told}, among the {given.metrics['train']:,} rows that are trained on" for told in contrary])
    leaks = find_leaks(make, config, {given.type: given}, searched)
    require_clean(leaks)
    return given, leaks


def find_leaks(make: Executor, config: Config, learnt_from: Mapping[str, Artifact], searched: Searched) -> Artifact:
    """The report of how much of the held-out tasks stands in the data of training."""
    return make(contamination, "contamination", ContaminationOptions.of(config), **searched, **learnt_from)
