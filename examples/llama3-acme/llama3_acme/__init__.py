from llama3.plugins import AlgorithmSpec, GuardSpec, hookimpl


@hookimpl
def llama3_algorithms():
    targets = {"factory": "llama3_acme.simpo:SimPO", "options": "llama3_acme.options:SimPOOptions"}
    return [AlgorithmSpec(name="simpo", data="pairs", summary="reference-free preference loss", **targets)]


@hookimpl
def llama3_guards():
    targets = {"factory": "llama3_acme.words:WordGuard", "options": "llama3_acme.words:WordOptions"}
    return [GuardSpec(name="words", stages=frozenset({"input", "output"}), summary="blocks listed words", **targets)]
