"""Safety in what a round learns from (paper 5.4.3, 5.4.4): prompts, what a model should answer to them, and how much of
a round they are."""
