"""Data quality control of dialogs (paper 4.2.3): topic, quality and difficulty, semantic deduplication, cleaning."""
