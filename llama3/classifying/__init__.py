"""Classifiers of documents that are trained here: labelled rows, training, and the card of what came out."""
