"""What stages hand to each other: directories with a manifest of content hashes, parents and configuration.

An artifact appears by one rename and never changes after; a stage whose inputs, options and plugins match
an existing verified artifact is skipped; every artifact can be traced to the corpus behind it.
`run.RunDir` executes stages,
`lineage` draws the way back, `files` holds the few file operations that survive a crash.
"""

from llama3.artifacts.artifact import Artifact, Manifest, PluginUse
from llama3.artifacts.stages import (
    Checkpoint,
    CorpusArtifact,
    Dialogs,
    Preferences,
    Report,
    Shards,
    Stage,
    StageOutput,
    Texts,
    TokenizerArtifact,
    stage,
)

__all__ = [
    "Artifact",
    "Checkpoint",
    "CorpusArtifact",
    "Dialogs",
    "Manifest",
    "PluginUse",
    "Preferences",
    "Report",
    "Shards",
    "Stage",
    "StageOutput",
    "Texts",
    "TokenizerArtifact",
    "stage",
]
