"""Evaluation: evaluators measure a model on held-out data; baselines and intervals say what a figure means;
the report shows all of it in one self-contained page.
"""
