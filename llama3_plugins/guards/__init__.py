"""Guards: plugins that judge text (family `guards`)."""
