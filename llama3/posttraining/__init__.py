"""Post-training: rounds of rejection sampling, supervised finetuning, preference optimisation and averaging (paper 4).

What every algorithm shares lives here once: services (sampler, rewards, reference, log-probs), datasets that turn
dialogs and preference pairs into packed trees, verifiable tasks and the sandbox that checks code. Algorithms are
plugins.
"""
