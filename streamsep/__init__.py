"""streamsep: a live stem separator."""

__version__ = "0.1.0"


class StreamsepError(Exception):
    """Something failed that the user can mend; the message is one line: the value, what was expected, the cure.

    Each module's own exception derives from it.
    """


class NoGpuError(StreamsepError):
    """The network was to run on the GPU and nowhere else, and cannot."""
