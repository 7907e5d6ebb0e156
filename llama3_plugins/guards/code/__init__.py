"""Insecure code: blocks of code in a text, what they call, and rules for it (the guard `code_shield`).

blocks finds code in texts. What it calls is read by python (ast), or of tokens by calls, which trees (tree-sitter) or
tokens (our own lexer) cut. rules says what is insecure.
"""
