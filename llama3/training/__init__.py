"""One loop for everything that learns, with its schedules, parallelism, checkpoints and metrics; pretraining.

An algorithm (`llama3.training.algorithm`) says what is minimised, the loop (`llama3.training.loop`) how.
"""
