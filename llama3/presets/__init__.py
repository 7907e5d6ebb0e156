"""The presets that ship with the package: each `*.yaml` here is a link to the file of that name in `configs/`."""
