"""Data quality control in a round of the recipe: between the dialogs that were made and those that are learnt."""

from __future__ import annotations

from llama3.artifacts import Artifact
from llama3.config import Config
from llama3.execution import Executor
from llama3.quality.retuning import RetuneOptions, retune
from llama3.quality.scoring import ScoreOptions, score_dialogs, untold
from llama3.quality.selecting import SelectOptions, select_dialogs, told
from llama3.safe_rounds import with_safety


def chosen(
    make: Executor,
    config: Config,
    suffix: str,
    given: Artifact,
    safety: Artifact | None,
    model: Artifact,
    reward: Artifact | None = None,
    asked: Artifact | None = None,
) -> Artifact:
    """What is learnt of `given`: its dialogs that are worth it (`with_quality`), as often as the model needs them by
    what it answered in `asked` (`retuned`), joined by safety's share."""
    worth = with_quality(make, config, suffix, given, model, reward)
    return with_safety(make, config, suffix, retuned(make, config, suffix, worth, asked), safety)


def retuned(make: Executor, config: Config, suffix: str, given: Artifact, asked: Artifact | None) -> Artifact:
    """The dialogs of a round in another mix, where `post_training.retune` asks for it and a round came before: then
    `asked` are the answers of its models."""
    if config.post_training.retune is None or asked is None:
        return given
    return make(retune, f"retuned{suffix}", RetuneOptions.of(config), dialogs=given, asked=asked)


def with_quality(
    make: Executor, config: Config, suffix: str, given: Artifact, model: Artifact, reward: Artifact | None = None
) -> Artifact:
    """The dialogs of `given` that are worth learning (4.2.3), where `post_training.quality` asks for it; other data as
    they are. `model` embeds them where no encoder is named; a reward model of the run joins those that are."""
    section = config.post_training.quality
    if section is None or given.type != "dialogs":
        return given
    options = ScoreOptions.of(config)
    embeds = model if options.embeds and options.encoder is None else None
    scores = make(score_dialogs, f"scores{suffix}", options, dialogs=given, checkpoint=embeds, reward=reward)
    make.warn(untold(scores.metrics.get("asked", {})))
    chosen = make(select_dialogs, f"quality{suffix}", SelectOptions.of(config), dialogs=given, scores=scores)
    make.warn(told(chosen.metrics))
    return chosen
