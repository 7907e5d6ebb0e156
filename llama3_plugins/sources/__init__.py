"""Built-in readers of raw documents."""
