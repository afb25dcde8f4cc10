"""How fast the parts are, as ratios within one run: `python -m robustft.benchmarks.speed`. Scripts, not tests."""
