// A peak and RMS meter with a held peak and a clip lamp. Levels in dBFS.

import { marks } from "./fader.js";
import { decibels } from "./format.js";

const FALL = 24; // dB/s that the peak bar falls
const HOLD = 1500; // ms that the held peak stays
const SPEAK = 1000; // ms between two values for screen readers, and two numbers for eyes
const TICKS = [-60, -40, -20, -12, -6, 0];
const POINTS = [[-70, 0], [-60, 6], [-40, 24], [-20, 54], [-12, 70], [-6, 84], [0, 98], [6, 100]];

/** Where a level stands on the scale, percent. */
function place(level) {
  if (level <= POINTS[0][0]) return 0;
  const n = POINTS.findIndex((p) => level <= p[0]);
  if (n < 0) return 100;
  const [[a, x], [b, y]] = [POINTS[n - 1], POINTS[n]];
  return x + ((level - a) / (b - a)) * (y - x);
}

export class Meter {
  /** On a channel's card; `reset` is called when the clip lamp is pressed. */
  constructor(card, label, reset) {
    this._meter = card.querySelector(".meter");
    this._meter.setAttribute("aria-label", `Level of ${label}`);
    [this._rmsBar, this._peakBar, this._holdBar] = ["rms", "peak", "hold"].map((name) => card.querySelector(`.track .${name}`));
    this._peakNumber = card.querySelector(".peak-number");
    this._rmsNumber = card.querySelector(".rms-number");
    this._clip = card.querySelector(".clip");
    this._clip.setAttribute("aria-label", `${label}: clip; press to let go`);
    this._clip.addEventListener("click", reset);
    marks(card.querySelector(".meter .ticks"), TICKS, place);
    this._peak = this._rms = this._held = this._most = -144;
    this._heldAt = this._drawnAt = this._spokenAt = 0;
  }

  /** New levels: of all that came since the last ones. */
  show(peak, rms, clip) {
    const now = performance.now();
    this._peak = Math.max(peak, this._peak - (FALL * Math.min(now - this._drawnAt, 200)) / 1000);
    this._rms = rms;
    this._drawnAt = now;
    if (peak >= this._held || now - this._heldAt > HOLD) {
      this._held = peak;
      this._heldAt = now;
    }
    this._most = Math.max(this._most, peak);
    this._clip.setAttribute("aria-pressed", String(Boolean(clip)));
    this._fresh = true;
  }

  /** Once a picture. */
  draw(now) {
    if (!this._fresh) return;
    this._fresh = false;
    this._rmsBar.style.clipPath = `inset(0 ${100 - place(this._rms)}% 0 0)`;
    this._peakBar.style.clipPath = `inset(0 ${100 - place(this._peak)}% 0 0)`;
    this._holdBar.style.transform = `translateX(${place(this._held)}%)`;
    if (now - this._spokenAt < SPEAK / 2) return;
    this._spokenAt = now;
    this._peakNumber.textContent = decibels(this._most, -100);
    this._rmsNumber.textContent = decibels(this._rms, -100);
    this._meter.setAttribute("aria-valuenow", Math.max(-60, Math.min(0, this._most)).toFixed(0));
    this._meter.setAttribute("aria-valuetext", this._most <= -100 ? "silent" : `${this._most.toFixed(0)} dB peak`);
    this._most = -144;
  }
}
