"""The kit of plugin authors: a conformance class per family, and the toy parts that they run on.

Subclass the class of your family in a test file, name your plugin, and run pytest:

    from llama3.testing import AlgorithmConformance

    class TestSimPO(AlgorithmConformance):
        plugin = "simpo"

`llama3 plugins check NAME` runs the same classes without a test file.
"""
