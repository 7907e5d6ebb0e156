"""Weight formats, in and out: what a model on disk is, whatever its layout.

`open_weights` (formats.py) is the door to Hugging Face's layout (hf.py), Meta's (meta.py, pth.py) and GGUF (gguf.py,
gguf_file.py): all give tensors one at a time under Hugging Face's names (source.py). load.py makes models of them,
weights.py writes them, convert.py goes from one layout to another. No pickle is ever executed.
"""
