"""What is kept of a benchmark: bench.json, the pictures, and one HTML file that needs nothing else.

The HTML file asks for nothing outside: style inside, pictures as data. It is light or dark as its reader's system is. It says
what was measured on what, what each figure means, and what it may be compared with.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ..soundfiles import replacing
from . import picture
from .measurement import Measurement

TEMPLATE = Path(__file__).with_name("report.html")


def keep(folder: Path, m: Measurement) -> dict[str, Path]:
    """Write the files into `folder`, all or none; their paths. `streams.png` is there where several numbers were tried.

    Raises
    ------
    AudioFileError
        the folder cannot be written.
    """
    report = m.report()
    draw = [lambda look: picture.draw(m, look)]
    if m.scaling and len(m.scaling.tried) > 1:
        scaling = m.scaling
        draw.append(lambda look: picture.draw_streams(m, scaling, look))
    pictures = [(one(picture.LIGHT), one(picture.DARK)) for one in draw]
    contents = {"json": ("bench.json", json.dumps(report, indent=2).encode() + b"\n")}
    for (key, name), (light, _) in zip((("png", "bench.png"), ("streams", "streams.png")), pictures, strict=False):
        contents[key] = name, light
    contents["html"] = "report.html", page(report, pictures).encode()
    paths = {key: folder / name for key, (name, _) in contents.items()}
    with replacing(*paths.values()) as parts:
        for part, (_, content) in zip(parts, contents.values(), strict=True):
            part.write_bytes(content)
    return paths


def page(r: dict[str, Any], pictures: list[tuple[bytes, bytes]]) -> str:
    """The HTML file for a report, with pictures (light, dark) as PNG."""
    model = r["model"]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"streamsep bench: {model['name']} on {r['provider']}"),
        verdict=_verdict(r),
        setting=escape(_setting(r)),
        cards=_cards(r),
        picture=_picture(*pictures[0]),
        streams=_streams(r, pictures[1:]),
        bar=_bar(r),
        stages=_stages(r),
        floor=_floor(r),
        latency=_latency(r),
        machine=_facts(_machine(r)),
        versions=_facts(r["versions"]),
        command=escape(command(r)),
        when=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    )


def command(r: dict[str, Any]) -> str:
    """What to type to measure the same again."""
    model = r["model"]
    shipped = Path(model["path"]).parent.name == "models" and Path(model["path"]).stem == model["name"]
    words = ["streamsep bench", f"--model {model['name'] if shipped else model['path']}", f"--provider {r['provider']}"]
    words += [f"--hops {r['hops']}", f"--rate {r['sample_rate']}", f"--channels {r['channels']}"]
    if r["streams"]:
        words += ["--streams max" if r["streams"]["largest"] is not None else f"--streams {r['streams']['measured']}"]
    words += ["--paced" if r["mode"] == "paced" else "--back-to-back"]
    return " ".join(words + ([f"--load {r['load']['name']}"] if r["load"] else []))


def _verdict(r: dict[str, Any]) -> str:
    hop, late = r["hop_ms"], r["late"] + r["live"]["late"]
    counted = r["hops"] + r["live"]["hops"]
    many = f" of {r['streams']['measured']} streams" if r["streams"] else ""
    held = "No hop was late." if not late else f"<strong>{late} of {counted} hops were late.</strong>"
    return (
        f"A hop of {r['deadline_ms']:.3g} ms{many} takes <strong>{hop['p50']:.2f} ms</strong> (median), "
        f"and 99.9 of 100 take at most {hop['p99.9']:.2f} ms, {100 * hop['p99.9'] / r['deadline_ms']:.0f} % of the time there "
        f"is. {held}"
    )


def _setting(r: dict[str, Any]) -> str:
    m = r["model"]
    load = {"gil": "a Python thread that hogs the GIL", "cpu": "a busy process on every core"}
    beside = (
        f"beside {load[r['load']['name']]} ({r['load']['cpu_s']:g} s of processor time)" if r["load"] else "nothing beside it"
    )
    return (
        f"Model {m['name']} ({m['network']}, {m['precision']}, {m['parameters'] / 1e6:.1f} M parameters) on {r['provider']}; "
        f"{r['sample_rate']} Hz, {r['channels']} channels; {r['hops']} hops {r['mode']}, {beside}; "
        f"real-time scheduling {'granted' if r['realtime'] else 'refused'}."
    )


def _cards(r: dict[str, Any]) -> str:
    kind, ratio = ("cold", r["floor_ratio"]) if r["floor_ratio"] else ("warm", r["back_to_back"]["floor_ratio_warm"])
    floor = ((f"{ratio:.2f} ×", f"the {kind} memory floor"),) if ratio else ()
    many = ((str(r["streams"]["measured"]), "streams"),) if r["streams"] else ()
    cards = (
        *many,
        (f"{r['hop_ms']['p50']:.2f} ms", "a hop, median"),
        (f"{r['hop_ms']['p99']:.2f} ms", "a hop, p99"),
        (f"{100 * r['real_time_factor']:.1f} %", "of real time, one core"),
        *floor,
        (f"{r['latency_ms']['total']:g} ms", "latency, sound card apart"),
    )
    return "".join(f"<div class=card><b>{escape(figure)}</b><span>{escape(text)}</span></div>" for figure, text in cards)


def _picture(light: bytes, dark: bytes) -> str:
    return (
        f'<picture><source srcset="{_data(dark)}" media="(prefers-color-scheme: dark)">'
        f'<img src="{_data(light)}" alt="Each hop over time, and how often each duration came"></picture>'
    )


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _streams(r: dict[str, Any], pictures: list[tuple[bytes, bytes]]) -> str:
    """The section on many streams; nothing where there was one."""
    s = r["streams"]
    if not s:
        return ""
    how = "one call of the network takes all of them" if s["together"] else "the network takes them one after the other"
    found = (
        f"<strong>{s['largest']} streams</strong> hold their deadlines (p99 below the hop). "
        if s["largest"] is not None
        else ""
    )
    body = "".join(
        f"<tr><th>{row['streams']}</th><td>{row['hop_ms']['p50']:.3f}</td><td>{row['response_ms']['p99']:.3f}</td>"
        f"<td>{row['step_ms']['p50']:.3f}</td><td>{row['per_stream_ms']:.3f}</td><td>{row['late']} of {row['hops']}</td>"
        f"<td>{'yes' if row['holds'] else 'no'}</td></tr>"
        for row in s["rows"]
    )
    heads = ("streams", "hop p50", "due to done p99", "network p50", "hop for each stream", "late", "holds")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f"<h2>Many streams</h2><p>{found}All are due at the same time, on one core or one GPU; {how}. Hand-over and latency "
        f"above are those of one stream.</p>{''.join(_picture(*p) for p in pictures)}"
        f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _bar(r: dict[str, Any]) -> str:
    """The mean hop as a bar, as wide as its deadline."""
    parts = [(name, r["stages"][name]["mean"]) for name in ("handover", "stft", "network", "masks_istft")]
    free = max(0.0, r["deadline_ms"] - sum(ms for _, ms in parts))
    spans = "".join(
        f'<i class={name} style="flex-grow:{ms:.4f}" title="{escape(picture.LABELS[name])}: {ms:.3f} ms"></i>'
        for name, ms in parts
    )
    return f'<div class=bar>{spans}<i class=free style="flex-grow:{free:.4f}"><span>{free:.2f} ms to spare</span></i></div>'


def _stages(r: dict[str, Any]) -> str:
    rows = [(name, picture.LABELS[name], f) for name, f in r["stages"].items()]
    rows += [("", "whole hop", r["hop_ms"]), ("", "live: block in to hop out", r["live"]["response_ms"])]
    cells = ("p50", "p99", "p99.9", "max", "mean")
    body = "".join(
        f"<tr><th><i class='dot {key}'></i>{escape(label)}</th>"
        + "".join(f"<td>{f[cell]:.3f}</td>" for cell in cells)
        + f"<td>{100 * f['p99'] / r['deadline_ms']:.1f} %</td></tr>"
        for key, label, f in rows
    )
    head = "".join(f"<th>{name}</th>" for name in (*cells, "p99 of deadline"))
    return f"<table><thead><tr><th>ms</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _floor(r: dict[str, Any]) -> str:
    ms, speed, loop = r["floor_ms"], r["floor_gb_s"], r["back_to_back"]
    paced = f"{r['step_ms']['p50']:.3f} (paced)" if r["mode"] == "paced" else "not run"
    cold, warm = ("" if ratio is None else f"{ratio:.2f}" for ratio in (r["floor_ratio"], loop["floor_ratio_warm"]))
    return (
        "<table><thead><tr><th></th><th>reading the weights, ms</th><th>GB/s</th><th>network step, median ms</th>"
        "<th>times the floor</th></tr></thead><tbody>"
        f"<tr><th>cold: as a daemon finds them</th><td>{ms['cold']:.3f}</td><td>{speed['cold']:g}</td><td>{paced}</td>"
        f"<td>{cold}</td></tr>"
        f"<tr><th>warm: again and again</th><td>{ms['warm']:.3f}</td><td>{speed['warm']:g}</td>"
        f"<td>{loop['step_ms']['p50']:.3f} (back to back)</td><td>{warm}</td></tr></tbody></table>"
    )


def _latency(r: dict[str, Any]) -> str:
    meaning = {
        "algorithmic": "the synthesis window",
        "buffering": "hand-over to the worker, with blocks of one hop",
        "device": "none here; a sound card adds its own",
        "total": "input to output",
    }
    rows = "".join(
        f"<tr><th>{name}</th><td>{ms:g}</td><td>{r['latency_samples'][name]}</td><td class=text>{meaning[name]}</td></tr>"
        for name, ms in r["latency_ms"].items()
    )
    return f"<table><thead><tr><th></th><th>ms</th><th>samples</th><th></th></tr></thead><tbody>{rows}</tbody></table>"


def _machine(r: dict[str, Any]) -> dict[str, str]:
    m = r["machine"]
    caches = ", ".join(
        f"L{c['level']} {_size(c['kib'])}" + (f" for {c['shared_by']} cores" if c["shared_by"] > 1 else "") for c in m["caches"]
    )
    cores = f"{m['cores']}" + (f", {m['usable_cores']} of them for this process" if m["usable_cores"] != m["cores"] else "")
    return {
        "processor": m["cpu"] + (", virtual machine" if m["virtual"] else ""),
        "cores": cores,
        "caches": caches or "not told by the system",
        "memory": f"{m['ram_gib']:g} GiB",
        **({"GPU": m["gpu"]} if "gpu" in m else {}),
        "system": f"{m['system']}, kernel {m['kernel']}",
        "governor": m["governor"],
        "huge pages": m["huge_pages"],
        "real time": "granted" if m["realtime"] else "refused",
        "load before": f"{m['load_average']:g} processes (mean of the minute before)",
        "provider": r["provider"] + (f" ({'; '.join(r['provider_notes'])})" if r["provider_notes"] else ""),
    }


def _size(kib: int) -> str:
    return f"{kib / 1024:g} MiB" if kib >= 1024 else f"{kib} KiB"


def _facts(facts: dict[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items()) + "</dl>"
