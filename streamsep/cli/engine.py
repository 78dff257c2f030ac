"""`streamsep engine`: the process behind the plugin's instances."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Callable

import click

from .. import StreamsepError
from ..config import Provider
from .options import provider_option, require_gpu_option
from .terminal import stop_signals, tell


@click.command()
@click.option("--model", default="live", show_default=True, help="A shipped model's name, or an .onnx file of the same times.")
@provider_option
@require_gpu_option
@click.option("--idle", type=float, default=10.0, show_default=True, help="Seconds it stays without an instance.")
@click.option("--lock", type=int, hidden=True, help="The open file that holds the engine's lock; an instance started us.")
def engine(model: str, provider: Provider, require_gpu: bool, idle: float, lock: int | None) -> None:
    """Serve the plugin's instances of this user; they start it themselves.

    It ends by itself. `streamsep plugin status` tells what it does.
    """
    from .. import model as models
    from .. import native
    from ..plugin import engine as serving

    if lock is not None:
        serving.detach(lock)
    log = tell if lock is None else _log()
    with stop_signals() as stop:
        native.lock_memory()
        try:
            serving.Engine(models.load(model), log, lock, provider, require_gpu).run(stop, idle)
        except StreamsepError as error:
            if lock is not None:
                log(str(error))
            raise


def _log() -> Callable[[str], None]:
    """For an engine that has no terminal: lines in a file that stays small."""
    from ..plugin.engine import log_file

    logger = logging.getLogger("streamsep.engine")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler := logging.handlers.RotatingFileHandler(log_file(), maxBytes=1 << 16, backupCount=1, delay=True))
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    return logger.info
