"""What is wrong with a backbone or its weights."""


class BackboneError(ValueError):
    """A backbone that does not exist or whose weights cannot be used; one sentence."""


class UnusedWeights(BackboneError):
    """Weights of one's own that would be passed over in silence, and the registered ones taken in their place."""
