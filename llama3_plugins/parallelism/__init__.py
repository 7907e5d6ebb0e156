"""Parallelism: plugins that supply one axis of the device mesh (family `parallelism`)."""
