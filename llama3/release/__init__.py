"""What leaves the house: `quantize` makes a checkpoint smaller, exporters write it in the layouts of other programs,
and `release` puts weights, tokenizer, model card, policy and lineage into one directory that `transformers` loads
unmodified.
"""
