"""The built-in plugins, registered through the same entry-point group as anybody's. Torch-free: names and targets only."""

from llama3.plugins import GuardSpec, RewardSpec, hookimpl


@hookimpl
def llama3_guards() -> list[GuardSpec]:
    return [
        GuardSpec(
            name="prompt_injection",
            factory="llama3_plugins.guards.prompt_injection:PromptInjectionGuard",
            options="llama3_plugins.guards.prompt_injection:PromptInjectionOptions",
            summary="prompt injection and jailbreak patterns over normalised text; no model",
            stages=frozenset({"input", "tool_result"}),
        )
    ]


@hookimpl
def llama3_rewards() -> list[RewardSpec]:
    return [
        RewardSpec(
            name="verifiable",
            factory="llama3_plugins.rewards.verifiable:Verifiable",
            options="llama3_plugins.rewards.verifiable:VerifiableOptions",
            summary="1 for a verified answer (exact match, or unit tests in a sandbox); has tasks of its own",
        )
    ]
