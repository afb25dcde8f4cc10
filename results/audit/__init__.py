"""Bundles, manifests and the check of every number in them."""
