"""`python -m robustft.benchmarks` is the command line."""

from .cli import main

main()
