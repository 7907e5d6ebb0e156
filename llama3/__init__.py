"""The open pipeline behind Llama 3: raw text in, a herd of aligned, guarded, quantized models out."""

__version__ = "0.1.0"
