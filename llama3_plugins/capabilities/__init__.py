"""Built-in capability recipes: one small file each."""
