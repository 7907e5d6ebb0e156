"""Built-in document filters."""
