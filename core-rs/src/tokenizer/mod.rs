//! Byte-level BPE with Llama 3's split rule: training, encoding, decoding, streaming, file formats.
