"""What helps against each failure that an audit of a reward or of a round names. Torch-free."""

from __future__ import annotations

REMEDIES = (
    (
        "mislabelled preferences",
        "mend the rewards that rank the pairs, or name better post_training.audit.verifiers; or raise "
        "post_training.audit.most_mislabelled",
    ),
    (
        "too few to audit it",
        "raise prompts or samples of post_training.audit; harder tasks where nearly all answers are right, easier ones "
        "where nearly none is",
    ),
    ("it loves", "train it on pairs in which people prefer the answer with less of it; or widen most_excess"),
    ("it avoids", "train it on pairs in which people prefer the answer with more of it; or widen most_excess"),
    ("accuracy", "train it on more pairs, or on pairs that are labelled better; or lower least_accuracy"),
    ("not calibrated", "train it on more pairs, or for fewer epochs; or raise most_ece"),
    ("reward drift", "train the reward model on the pairs of all rounds; or raise post_training.audit.most_drift"),
    (
        "reward hacking",
        "mend the reward, or stay nearer to the model before the preference step: fewer steps or a lower rate",
    ),
    ("self-fed", "add worked examples (post_training.reject.demonstrations); or raise post_training.audit.most_own"),
    ("self-BLEU", "ask more varied prompts or sample warmer; or raise post_training.audit.most_self_bleu"),
    ("collapse", "ask more varied prompts or sample warmer; or lower post_training.audit.least_diversity"),
)
"""Words of an objection, and what to do; the first that fits counts."""
OTHERWISE = "mend what is named: the prompts, rewards or preferences"


def remedy(why: str) -> str:
    """What to do about one objection."""
    return next((told for words, told in REMEDIES if words in why), OTHERWISE)


def remedies(why: list[str]) -> str:
    """What to do about several, each remedy once."""
    return "; ".join(dict.fromkeys(map(remedy, why)))
