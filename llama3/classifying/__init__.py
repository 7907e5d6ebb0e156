"""Classifiers of documents that are trained here: labelled rows, training, and the card of what came out."""

from llama3.classifying.training import TextModelTraining, train_text_model

__all__ = ["TextModelTraining", "train_text_model"]
