from llama3.plugins import ParallelSpec, hookimpl


@hookimpl
def llama3_parallel_strategies():
    factory = "llama3_ulysses.strategy:Ulysses"
    return [
        ParallelSpec(name="ulysses", factory=factory, axis="cp", summary="sequences over ranks, attention by heads")
    ]
