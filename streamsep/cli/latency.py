"""`streamsep latency`."""

from __future__ import annotations

from typing import Any

import click

from .. import StreamsepError
from ..config import load as load_config
from .options import loop_options
from .terminal import err, json_option, out, print_json


@click.command()
@loop_options
@click.option(
    "--send", multiple=True, help="JACK port or client to play into; may be given again. Instead of --input, --output."
)
@click.option("--return", "back", multiple=True, help="JACK port or client to record; several are added up.")
@click.option(
    "--osc-port", type=click.IntRange(1, 65535), help="OSC port of a streamsep in the loop: it tells what it promises."
)
@click.option(
    "--max-delay", default=2.0, show_default=True, type=click.FloatRange(0.1, 30), help="Longest delay looked for, s."
)
@click.option(
    "--level", default=-20.0, show_default=True, type=click.FloatRange(-90, 0), help="Of the noise that is played, dBFS."
)
@json_option
def latency(
    send: tuple[str, ...],
    back: tuple[str, ...],
    osc_port: int | None,
    max_delay: float,
    level: float,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure the round trip of a cable or a JACK graph.

    Plays two seconds of noise.

    \b
    streamsep latency --input "USB Audio" --output "USB Audio"     # a cable from an output to an input
    streamsep latency --send system:playback_1 --return system:capture_1
    streamsep latency --send streamsep --return streamsep --osc-port 9000
    """
    from .. import roundtrip

    config = load_config(None, flags)
    parts = roundtrip.promised_by_daemon(osc_port) if osc_port else {}
    if send or back:
        result = roundtrip.measure(lambda: roundtrip.through_jack(send, back, max_delay, level), parts)
    else:
        from .. import model
        from ..devices import opening

        shipped = model.load("live")
        result = roundtrip.measure(
            lambda: roundtrip.through_device(opening.open_device(config, shipped), max_delay, level), parts
        )
    if as_json:
        print_json(result.as_dict() | {"remarks": result.remarks()})
    elif result.loop:
        _print_round_trip(result.as_dict())
    for line in [] if as_json else result.remarks():
        err.print(f"note: {line}", markup=False)
    if not result.loop:
        if as_json:
            raise click.exceptions.Exit(1)
        raise StreamsepError(result.why_none())


def _print_round_trip(facts: dict[str, Any]) -> None:
    parts = " + ".join(f"{name} {samples}" for name, samples in facts["computed_samples"].items() if name != "total")
    chance = max(facts["false_alarm"], 1e-99)
    for line in (
        f"{facts['device']}: {facts['sample_rate']} Hz, block {facts['block']}",
        f"measured    {facts['measured_samples']:10.2f} samples {facts['measured_ms']:9.3f} ms; "
        f"{facts['snr_db']:.0f} dB signal to noise, chance of a mistake below {chance:.0e}",
        f"computed    {facts['computed_samples']['total']:7d}    samples {facts['computed_ms']['total']:9.3f} ms = {parts}",
        f"difference  {facts['difference_samples']:+10.2f} samples",
    ):
        out.print(line, markup=False)
