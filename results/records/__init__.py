"""Records and per-sample predictions on disk."""
