"""The model core: one Llama 3 transformer for training, scoring and serving.

`Batch` (batch.py) is what the model sees: a packed forest of segments. `Transformer` (transformer.py) turns it into
hidden states, `score` (score.py) turns those into log-probabilities, `weights.py` reads and writes them in Hugging
Face's layout, and `config.py` (torch-free) holds the architecture and the presets. Import from the modules; this
package stays torch-free.
"""
