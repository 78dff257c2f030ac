// Two graphs of the hops: how long they took against their deadline, and what each second of the last minutes brought.

import { count, number } from "./format.js";
import { fit } from "./spectrum.js";

const SHOWN = 300; // s on the time line
const KEPT = 3600; // s remembered
const FULL = 1.5; // deadlines that the time line is high
const LABEL = 11; // px

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A canvas cleared, its context in CSS pixels. */
function begin(canvas) {
  const { width, height, ratio } = fit(canvas);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = `${LABEL}px ${colour("--sans")}`;
  return { context, width: width / ratio, height: height / ratio };
}

export class Histogram {
  constructor(canvas) {
    this._canvas = canvas;
  }

  /** `form` says what the bins are, in parts of the deadline (ms). */
  shape(form, deadline) {
    this._form = form;
    this._deadline = deadline;
  }

  draw(counts) {
    if (!this._form) return;
    const { context, width, height } = begin(this._canvas);
    const floor = height - LABEL - 7;
    const { per_octave: perOctave, octaves_below: below } = this._form;
    const most = Math.max(1, ...counts);
    const wide = width / counts.length;
    const due = perOctave * below; // the bin that begins at the deadline
    context.fillStyle = colour("--late-ground");
    context.fillRect(due * wide, 0, width - due * wide, floor);
    counts.forEach((n, bin) => {
      if (!n) return;
      const high = Math.max(2, Math.sqrt(n / most) * (floor - 16)); // square root: one hop among thousands is still seen
      context.fillStyle = colour(bin >= due ? "--late" : "--bar");
      context.fillRect(bin * wide + 0.5, floor - high, Math.max(1, wide - 1), high);
    });
    context.fillStyle = colour("--line");
    context.fillRect(0, floor, width, 1);
    context.fillStyle = colour("--late");
    context.fillRect(due * wide - 1, 0, 2, floor);
    context.textAlign = "left";
    context.fillText("deadline", due * wide + 6, LABEL);
    context.fillStyle = colour("--dim");
    context.textAlign = "center";
    for (let octave = 1; octave < counts.length / perOctave; octave++) {
      const ms = this._deadline * 2 ** (octave - below);
      context.fillText(number(ms, ms < 1 ? 2 : 1), octave * perOctave * wide, height - 2);
    }
    context.textAlign = "right";
    context.fillText("ms", width, height - 2);
    const late = counts.slice(due).reduce((sum, n) => sum + n, 0);
    const all = counts.reduce((sum, n) => sum + n, 0);
    this._canvas.setAttribute("aria-label", `${count(all, "hop")} in the last minute, ${late} late or longer than the deadline`);
  }
}

export class Timeline {
  constructor(canvas, deadline = 8) {
    this._canvas = canvas;
    this._seconds = new Map(); // wall clock second -> what happened in it
    this.deadline = deadline;
  }

  /** Seconds as the daemon tells them; `now` is its clock. The new ones in which something went wrong. */
  add(seconds, now) {
    const shift = Date.now() / 1000 - now;
    if (!(Math.abs(shift - this._shift) < 1)) this._shift = shift; // else a second would now and then be told as its neighbour
    const wrong = [];
    for (const [at, hops, late, longest, xruns, missed] of seconds) {
      const when = Math.round(at + this._shift);
      const before = this._seconds.get(when) ?? { late: 0, xruns: 0, missed: 0 };
      this._seconds.set(when, { hops, late, longest, xruns, missed });
      const more = { when, late: late - before.late, xruns: xruns - before.xruns, missed: missed - before.missed };
      if (more.late > 0 || more.xruns > 0 || more.missed > 0) wrong.push(more);
    }
    for (const when of this._seconds.keys()) {
      if (when > Date.now() / 1000 - KEPT) break;
      this._seconds.delete(when);
    }
    return wrong;
  }

  /** Hops late, xruns and blocks missed in the last seconds. */
  recent(seconds) {
    const sum = { late: 0, xruns: 0, missed: 0 };
    const now = Math.floor(Date.now() / 1000);
    for (let when = now - seconds + 1; when <= now; when++) {
      const second = this._seconds.get(when);
      for (const key in sum) sum[key] += second?.[key] ?? 0;
    }
    return sum;
  }

  draw() {
    const { context, width, height } = begin(this._canvas);
    const floor = height - LABEL - 7;
    const now = Math.floor(Date.now() / 1000);
    const wide = width / SHOWN;
    const place = (when) => width - (now - when + 1) * wide;
    const due = floor - floor / FULL;
    context.fillStyle = colour("--late-ground");
    context.fillRect(0, 0, width, due);
    for (let when = now - SHOWN + 1; when <= now; when++) {
      const second = this._seconds.get(when);
      if (!second) continue;
      const high = Math.min(second.longest / this.deadline / FULL, 1) * floor;
      context.fillStyle = colour(second.late ? "--late" : "--bar");
      if (second.hops) context.fillRect(place(when), floor - Math.max(high, 1), Math.max(wide, 1), Math.max(high, 1));
      if (second.late) context.fillRect(place(when) - 1, 0, Math.max(wide, 3), floor);
      if (second.xruns || second.missed) {
        context.fillStyle = colour("--warn");
        context.fillRect(place(when) - 1.5, floor - 8, Math.max(wide, 4), 8);
      }
    }
    context.fillStyle = colour("--late");
    context.fillRect(0, due, width, 1);
    context.fillStyle = colour("--line");
    context.fillRect(0, floor, width, 1);
    context.textAlign = "left";
    context.fillStyle = colour("--late");
    context.fillText(`deadline ${number(this.deadline)} ms`, 4, due - 4);
    context.fillStyle = colour("--dim");
    for (let n = 0; n < SHOWN / 60; n++) {
      context.textAlign = n ? "center" : "right";
      context.fillText(n ? `\u2212${n} min` : "now", width - n * 60 * wide, height - 2);
    }
    const { late, xruns, missed } = this.recent(SHOWN);
    const said = `${count(late, "late hop")}, ${count(xruns, "xrun")} and ${count(missed, "missed block")} in the last five minutes`;
    if (this._canvas.getAttribute("aria-label") !== said) this._canvas.setAttribute("aria-label", said);
  }
}
