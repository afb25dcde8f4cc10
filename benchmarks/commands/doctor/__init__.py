"""`robustft doctor`: is everything that a benchmark needs on this machine, and whole?"""
