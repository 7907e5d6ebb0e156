"""Capability recipes (paper 4.3): how dialogs for one skill are made, verified, and joined to those of a round.

protocol.py says what a recipe is, made.py what it makes, workshop.py what it may use, voices.py who answers it.
stage.py has a recipe make dialogs; joining.py puts what was kept among the others. checks.py refuses what cannot work.
"""
