"""Guards that are trained: what they read, how they score, how they are taught and measured.

`prompt_*`: a small classifier of prompt attacks; `taught_*`: a language model that is asked, as Llama Guard is.
"""
