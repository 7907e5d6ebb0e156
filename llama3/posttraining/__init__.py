"""Post-training: rounds of rejection sampling, supervised finetuning, preference optimisation and averaging (paper 4).

What every algorithm shares lives here once: services (sampler, rewards, reference, log-probs) and datasets that turn
dialogs and preference pairs into packed trees. Tasks and rewards are in `llama3.tasks`; algorithms are plugins.
"""
