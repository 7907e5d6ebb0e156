"""Capability recipes (paper 4.3): how dialogs for one skill are made, verified, and joined to those of a round.

made.py says what a recipe is and makes, workshop.py what it may use, voices.py who answers it. making.py is the stage
that has a recipe make dialogs; joining.py puts what was kept among the others.
"""
