from llama3.testing import ParallelConformance


class TestUlysses(ParallelConformance):
    plugin = "ulysses"
