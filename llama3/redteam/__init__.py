"""Red team: attacks on a model behind its guards are written, put to it and judged; the best of each kind are varied.

A loop as in Rainbow Teaming (Samvelyan et al. 2024; Llama 3 paper 5.4.2, 5.4.6) over an archive of category x style x
language. Who writes the attacks is a plugin (family `attackers`).
"""
