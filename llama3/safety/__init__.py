"""Safety: the guard interface, the policy engine that composes guards and fails closed, text normalisation.

Guards are plugins and only judge; the engine decides. Whatever goes wrong inside a guard (an exception, a
timeout, a malformed verdict) counts as its leaf's `on_error` action, which is `block` unless the policy says else.
"""
