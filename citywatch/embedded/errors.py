"""What can go wrong with the embedded stack, as one exception a person can act on."""


class EmbeddedError(Exception):
    """A part of the embedded stack is missing, does not start, or has died."""
