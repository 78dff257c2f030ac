// A fader: a native range input on a scale of its own, and its value as text that can be typed over.

import { decibels, number } from "./format.js";

const HANDS_OFF = 300; // ms after the last move of one's own: till then others' news waits

/** What a fader's throw means: points [position 0 to 1000, value], and how keys move it. */
export const GAIN = {
  unit: "dB",
  rest: 0,
  step: 1,
  fine: 0.1,
  page: 6,
  wake: -60, // where a key takes a silent fader up from
  points: [[0, -90], [50, -60], [250, -30], [500, -12], [750, 0], [1000, 24]],
  ticks: [-60, -30, -12, 0, 12, 24],
  text: (value) => decibels(value),
  speech: (value) => (value <= -90 ? "silent" : `${number(value)} decibels`),
};

export const SHARE = {
  unit: "%",
  rest: 100,
  step: 5,
  fine: 1,
  page: 20,
  points: [[0, 0], [1000, 100]],
  ticks: [0, 25, 50, 75, 100],
  text: (value) => number(value, 0),
  speech: (value) => `${number(value, 0)} percent wet`,
};

const between = (x, points, from, to) => {
  const n = Math.max(1, points.findIndex((p) => x <= p[from]));
  const [a, b] = [points[n - 1], points[n]];
  return a[to] + ((x - a[from]) / (b[from] - a[from])) * (b[to] - a[to]);
};

export class Fader {
  /** `set(value)` is called with each value that the user chooses. */
  constructor(label, scale, set) {
    this.element = document.getElementById("fader").content.cloneNode(true).firstElementChild;
    this._scale = scale;
    this._set = set;
    this._low = scale.points[0][1];
    this._high = scale.points.at(-1)[1];
    this.throw = this.element.querySelector("input[type=range]");
    this._typed = this.element.querySelector("input[type=text]");
    this.element.querySelector(".what").textContent = label;
    this.throw.setAttribute("aria-label", label);
    this._typed.setAttribute("aria-label", `${label}, ${scale.unit}`);
    this.element.querySelector(".unit").textContent = scale.unit;
    marks(this.element.querySelector(".ticks"), scale.ticks, (tick) => between(tick, scale.points, 1, 0) / 10);
    this._value = scale.rest;
    this._touched = -Infinity;
    this._draw();
    this.throw.addEventListener("input", () => this._drag());
    this.throw.addEventListener("keydown", (event) => this.key(event) && event.preventDefault());
    this.throw.addEventListener("dblclick", () => this._choose(scale.rest));
    this._typed.addEventListener("change", () => this._type());
    this._typed.addEventListener("focus", () => this._typed.select());
    this._typed.addEventListener("keydown", (event) => event.key === "Enter" && this._typed.blur());
  }

  get value() {
    return this._value;
  }

  /** A value that was told. */
  show(value) {
    clearTimeout(this._later);
    const wait = this._touched + HANDS_OFF - performance.now();
    if (wait > 0) {
      this._later = setTimeout(() => this.show(value), wait);
      return;
    }
    this._value = value;
    this._draw();
  }

  /** Moves by a key; whether it was one that does. */
  key({ key, shiftKey }) {
    const { step, fine, page } = this._scale;
    const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[key] * (shiftKey ? fine : step);
    if (by) this._choose((by > 0 ? Math.max(this._value, this._scale.wake ?? this._low) : this._value) + by);
    else if (key === "PageUp") this._choose(this._value + page);
    else if (key === "PageDown") this._choose(this._value - page);
    else if (key === "Home") this._choose(this._low);
    else if (key === "End") this._choose(this._high);
    else return false;
    return true;
  }

  _drag() {
    const value = between(Number(this.throw.value), this._scale.points, 0, 1);
    const detent = 4 * this._scale.fine;
    this._choose(Math.abs(value - this._scale.rest) < detent ? this._scale.rest : value);
  }

  _type() {
    const value = Number(this._typed.value.replace("\u2212", "-").replace(",", "."));
    if (this._typed.value.includes("\u221e")) this._choose(this._low);
    else if (Number.isFinite(value) && this._typed.value.trim()) this._choose(value);
    else this._draw();
  }

  _choose(value) {
    this._value = Math.min(Math.max(Math.round(value * 10) / 10, this._low), this._high);
    this._touched = performance.now();
    this._draw();
    this._set(this._value);
  }

  _draw() {
    const value = Math.min(Math.max(this._value, this._low), this._high);
    const position = between(value, this._scale.points, 1, 0);
    this.throw.value = position;
    this.throw.style.setProperty("--at", `${position / 10}%`);
    this.throw.setAttribute("aria-valuetext", this._scale.speech(value));
    if (document.activeElement !== this._typed || performance.now() - this._touched < 50) this._typed.value = this._scale.text(value);
  }
}

/** Marks on a scale: `place(tick)` in percent. */
export function marks(list, ticks, place) {
  list.replaceChildren(
    ...ticks.map((tick) => {
      const mark = document.createElement("li");
      mark.textContent = String(tick).replace("-", "\u2212");
      mark.style.left = `${place(tick)}%`;
      return mark;
    }),
  );
}
