"""What serving a model costs: time, memory and money, measured on this machine and predicted for others.

`footprint` says what a model takes in a format, `gpus` what a device offers, `bound` what follows from the two, `here`
measures this machine, `question` reads what was asked and `answer` answers it, point by point; `pareto` says which
points nobody needs.
"""
