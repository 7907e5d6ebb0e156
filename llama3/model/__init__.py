"""The network: one Llama 3 transformer for training, scoring and serving.

`Batch` (batch.py) is what the model sees: a packed forest of segments. `Transformer` (transformer.py) turns it into
hidden states, `score` (score.py) turns those into log-probabilities, build.py makes new models, and config.py
(torch-free) holds the architecture and the presets. Files of weights are the business of `llama3.checkpoints`. Import
from the modules; this package stays torch-free.
"""
