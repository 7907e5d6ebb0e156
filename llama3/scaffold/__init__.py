"""Writes a plugin package to start from: `llama3 plugins new NAME --family FAMILY`.

templates/ holds the files of each family, with `$name`, `$Name` and `$package` where the plugin's names go. Each is a
whole plugin that passes `llama3 plugins check` as it stands; its author puts an idea in the place of the toy one.
"""
