"""streamsep: a live stem separator.

Importing it keeps ONNX Runtime from reporting to its makers: its official builds since 1.29 do so unless they are told not to
(onnxruntime #27379). They look once, when they are imported, so that whoever imports both has this first.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"


class StreamsepError(Exception):
    """Something failed that the user can mend; the message is one line: the value, what was expected, the cure.

    Each module's own exception derives from it.
    """


class NoGpuError(StreamsepError):
    """The network was to run on the GPU and nowhere else, and cannot."""
