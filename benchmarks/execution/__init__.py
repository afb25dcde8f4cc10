"""One run: train, evaluate, write its record."""
