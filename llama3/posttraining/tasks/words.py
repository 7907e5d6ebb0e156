"""The words of string tasks: short, plain, and common in both prose and code, so that any tokenizer knows them."""

_TEXT = """
back base block body call case check class code copy count data date day end error event field file first form group
hand head help index item key last left level line link list lock long main mark match mode model name new next node
note number object open order page part path place point port range read result right root row rule section set sign
size sort source space start state step stop string table tag test text thread time title token tree type unit user
value version view wait week window word work write year
"""
WORDS = tuple(_TEXT.split())
