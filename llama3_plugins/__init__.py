"""The built-in plugins, registered through the same entry-point group as anybody's. Torch-free: names and targets only."""
