// A scrolling spectrogram on a canvas: the last seconds of one signal, log frequency, a perceptual colour map (magma).
// Where motion is not wanted it does not scroll: new columns overwrite old ones in place, a few times a second.

const SECONDS = 12;
const RANGE = [-92, -10]; // dB against a full-scale sine: the colours' ends
const STILL = 500; // ms between two pictures where motion is not wanted
const TICKS = [100, 1000, 10000]; // Hz
// matplotlib's magma, 32 colours from dark to light; light pages read it the other way round.
const MAGMA =
  "0000040303120a0822130d341e11492a115c38106c45107754137d6018806d1d81792282882781942c80a1307eae347b" +
  "bd3977ca3e72d6456ce24d66ec5860f3655cf8745cfb835ffd9467fea36ffeb27afec185fed194fde0a1fceeb0fcfdbf";

const still = matchMedia("(prefers-reduced-motion: reduce)");
const light = matchMedia("(prefers-color-scheme: light)");

/** A colour for each byte of a column, as canvases keep them: [shape=(256, 4)]. */
function palette({ bottom, step }) {
  const stops = MAGMA.match(/../g).map((hex) => parseInt(hex, 16));
  const colours = new Uint8ClampedArray(4 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let share = (bottom + step * byte - RANGE[0]) / (RANGE[1] - RANGE[0]);
    share = Math.min(Math.max(share, 0), 1);
    const x = (light.matches ? 1 - share : share) * 31;
    const n = Math.min(Math.floor(x), 30);
    for (let k = 0; k < 3; k++) {
      colours[4 * byte + k] = stops[3 * n + k] + (x - n) * (stops[3 * (n + 1) + k] - stops[3 * n + k]);
    }
    colours[4 * byte + 3] = 255;
  }
  return colours;
}

export class Spectrum {
  /** On a channel's card; `axis` says what the columns are. */
  constructor(card, label, axis) {
    this._axis = axis;
    this._columns = Math.round(SECONDS * axis.rate);
    this._bytes = new Uint8Array(this._columns * axis.rows); // as they came: colours change with the theme
    this._at = 0;
    this._canvas = card.querySelector("canvas");
    this._canvas.setAttribute("aria-label", `Spectrogram of ${label}, the last ${SECONDS} seconds`);
    this._context = this._canvas.getContext("2d", { alpha: false });
    this._kept = new OffscreenCanvas(this._columns, axis.rows);
    this._keptContext = this._kept.getContext("2d", { alpha: false });
    this._column = new ImageData(1, axis.rows);
    this._drawnAt = 0;
    this._scale(card.querySelector(".scale"));
    this._paint();
    light.addEventListener("change", () => this._paint());
  }

  _scale(list) {
    const { lowest, highest } = this._axis;
    const marks = TICKS.filter((hz) => hz < 0.9 * highest).map((hz) => {
      const mark = document.createElement("li");
      mark.textContent = hz < 1000 ? `${hz}` : `${hz / 1000}k`;
      mark.style.bottom = `${(100 * Math.log(hz / lowest)) / Math.log(highest / lowest)}%`;
      return mark;
    });
    list.replaceChildren(...marks);
  }

  /** One column, lowest row first. */
  add(bytes) {
    this._bytes.set(bytes, this._at * this._axis.rows);
    this._put(this._at);
    this._at = (this._at + 1) % this._columns;
    this._fresh = true;
  }

  _paint() {
    this._colours = palette(this._axis);
    for (let n = 0; n < this._columns; n++) this._put(n);
    this._fresh = true;
  }

  _put(n) {
    const { rows } = this._axis;
    const pixels = this._column.data;
    for (let row = 0; row < rows; row++) {
      const from = 4 * this._bytes[n * rows + row];
      const to = 4 * (rows - 1 - row);
      for (let k = 0; k < 4; k++) pixels[to + k] = this._colours[from + k];
    }
    this._keptContext.putImageData(this._column, n, 0);
  }

  /** Once a picture. */
  draw(now) {
    if (!this._fresh || (still.matches && now - this._drawnAt < STILL)) return;
    this._fresh = false;
    this._drawnAt = now;
    const { width, height } = fit(this._canvas);
    const context = this._context;
    if (still.matches) {
      context.drawImage(this._kept, 0, 0, width, height);
      context.fillStyle = light.matches ? "#000" : "#fff";
      context.fillRect((this._at / this._columns) * width, 0, 2, height);
      return;
    }
    const old = this._columns - this._at;
    const border = (old / this._columns) * width;
    context.drawImage(this._kept, this._at, 0, old, this._axis.rows, 0, 0, border, height);
    if (this._at) context.drawImage(this._kept, 0, 0, this._at, this._axis.rows, border, 0, width - border, height);
  }
}

/** Makes a canvas as fine as the screen; its size in its own pixels. */
export function fit(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  return { width, height, ratio };
}
