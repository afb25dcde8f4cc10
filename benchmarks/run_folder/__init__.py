"""The folder of one run: its spec, plan, state and lease."""
