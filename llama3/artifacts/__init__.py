"""What stages hand to each other: directories with a manifest of content hashes, parents and configuration.

An artifact appears by one rename and never changes after; a stage whose inputs, options and plugins match
an existing verified artifact is skipped; every artifact can be traced to the corpus behind it.
`run.RunDir` executes stages,
`lineage` draws the way back, `files` holds the few file operations that survive a crash.
"""

from llama3.artifacts.artifact import Artifact, Manifest, PluginUse
from llama3.artifacts.stage import Stage, StageOutput

__all__ = ["Artifact", "Manifest", "PluginUse", "Stage", "StageOutput"]
