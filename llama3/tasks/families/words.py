"""The words of string tasks: plain, and common in both prose and code, so that any tokenizer has them whole.

Few on purpose: a model of two million parameters, finetuned for a minute, must meet each of them often. What is held
out is their combinations.
"""

WORDS = ("code", "data", "file", "key", "line", "list", "name", "path", "text", "time", "type", "value")
