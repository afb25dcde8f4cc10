"""Suites and tuned values as they are on disk."""
