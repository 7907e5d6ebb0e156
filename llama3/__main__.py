"""`python -m llama3`, which is also how `torchrun -m llama3 run ...` starts every rank."""

import signal
import sys
from collections import namedtuple

# Until `main` has handlers of its own: torchrun may be told to stop before its ranks have begun.
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    from llama3.cli import main
except KeyboardInterrupt:
    print("error: interrupted", file=sys.stderr)
    namedtuple("Forgotten", ())  # as in llama3.cli.ending
    sys.exit(130)

main()
