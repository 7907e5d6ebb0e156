"""The built-in plugins, registered through the same entry-point group as anybody's. Torch-free: names and targets only."""

from llama3.plugins import GuardSpec, hookimpl


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
