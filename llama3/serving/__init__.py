"""The service: a model behind the HTTP interface that OpenAI's clients speak.

`Service` (service.py) is the thread that owns the engine; a `ServedChoice` (choices.py) is one answer on its way to a
client, through stop texts, guards and tool calls; chat.py, completions.py and texts.py are the routes, app.py puts
them together, server.py runs them. Importing this package imports neither torch nor a web framework.
"""
