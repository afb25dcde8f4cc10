"""From a suite and flags to specs: every value with its source, checked before anything starts."""
