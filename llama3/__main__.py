"""`python -m llama3`, which is also how `torchrun -m llama3 run ...` starts every rank."""

from llama3.cli import main

main()
