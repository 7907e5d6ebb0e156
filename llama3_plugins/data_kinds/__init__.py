"""Built-in kinds of data: what algorithms learn from, and how a user writes it."""
