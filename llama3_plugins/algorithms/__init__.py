"""Algorithms: plugins that say what training minimises (family `algorithms`)."""
