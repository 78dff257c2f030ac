"""The command line: the only place that prints or exits. A module for each command.

Exit codes: 0 done, 1 it failed while running, 2 it was asked for wrongly, 3 it requires a GPU and none works. An error is one
line on stderr. With `--json` there is one JSON object on stdout and nothing else.
"""

from __future__ import annotations

import os
import sys

import click

from .. import NoGpuError, StreamsepError, __version__, jit_cache
from ..config import ConfigError
from .bench import bench
from .demo import demo
from .engine import engine
from .latency import latency
from .listen import listen
from .listings import devices, doctor, models, osc
from .plugin import plugin
from .run import run
from .separate import separate
from .settings import completion, config, init
from .terminal import err


def main(args: list[str] | None = None) -> None:
    """Entry point of the `streamsep` command."""
    place = jit_cache.use()
    if place and not any(place.iterdir()) and err.is_terminal:
        err.print("first run: some seconds are spent on compiling", markup=False)
    sys.exit(_run(args))


def _run(args: list[str] | None) -> int:
    try:
        return int(
            cli.main(args=args, prog_name="streamsep", standalone_mode=False) or 0
        )  # the code of `click.exceptions.Exit`
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message(), err=True)
        return 2
    except click.UsageError as error:
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        return _fail(error.format_message().rstrip(".").replace("\n", " ") + where, 2)
    except ConfigError as error:
        return _fail(str(error), 2)
    except NoGpuError as error:
        return _fail(str(error), 3)
    except StreamsepError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:  # whoever read stdout has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> int:
    err.print(f"streamsep: {message}", markup=False)
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="streamsep")
def cli() -> None:
    """Live stem separator.

    \b
    streamsep run                         # live, from the default devices
    streamsep run --input "USB Audio" --record takes
    streamsep separate song.flac          # a file
    """


ALL = (separate, run, init, config, completion, listen, devices, models, osc, doctor, latency, demo, bench, plugin, engine)
for command in ALL:
    cli.add_command(command)
