from llama3.testing import AlgorithmConformance, GuardConformance


class TestSimPO(AlgorithmConformance):
    plugin = "simpo"


class TestWords(GuardConformance):
    plugin = "words"
    harmful = ("my PASSWORD is",)
