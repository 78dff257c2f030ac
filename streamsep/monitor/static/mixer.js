// The mixer: a card for the input, one for each source, one for the output. Each shows a signal; most of them steer it.

import { Fader, GAIN, SHARE } from "./fader.js";
import { Meter } from "./meter.js";
import { Spectrum } from "./spectrum.js";

const element = (name, properties) => Object.assign(document.createElement(name), properties);

/** A button that is on or off. `press(on)` asks for the other; what holds is told by `show`. */
export class Switch {
  constructor(button, press) {
    this.button = button;
    this.on = false;
    button.addEventListener("click", () => press(!this.on));
    this.show(false);
  }

  show(on) {
    this.on = Boolean(on);
    this.button.setAttribute("aria-pressed", String(this.on));
  }

  press() {
    this.button.click();
  }
}

/** What all cards have: a name, a picture, a meter. */
class Card {
  constructor(mixer, signal, label, digit) {
    this.signal = signal; // as sound is asked for: a source's name, "input" or "mix"
    this.label = label;
    this.element = document.getElementById("channel").content.cloneNode(true).firstElementChild;
    this.element.dataset.signal = signal;
    this.element.setAttribute("aria-label", label);
    this.element.querySelector(".name").textContent = label;
    const key = this.element.querySelector("kbd");
    if (digit === undefined) key.remove();
    else key.textContent = digit;
    this._mixer = mixer;
    this.meter = new Meter(this.element, label, () => mixer.link.send("/meters/reset"));
    this.element.addEventListener("focusin", () => mixer.select(this));
  }

  hear(address) {
    this._mixer.link.on(address, ([peak, rms, clip]) => this.meter.show(peak, rms, clip));
  }

  draw(now) {
    this.meter.draw(now);
    this.spectrum?.draw(now);
  }

  _gain(label, address) {
    const { link } = this._mixer;
    const fader = new Fader(label, GAIN, (db) => link.send(address, "f", db));
    link.on(address, ([db]) => fader.show(db));
    this.element.append(fader.element);
    this.fader = fader;
  }

  _switch(text, label, address, key, row) {
    const { link } = this._mixer;
    const button = element("button", { textContent: text, className: text.toLowerCase() });
    button.setAttribute("aria-label", label);
    button.setAttribute("aria-keyshortcuts", key);
    const made = new Switch(button, (on) => link.send(address, "i", Number(on)));
    link.on(address, ([on]) => made.show(on));
    row.append(button);
    return made;
  }
}

class Input extends Card {
  constructor(mixer, axis) {
    super(mixer, "input", "Input");
    this.spectrum = new Spectrum(this.element, "the input", axis);
    this.hear("/meter/input");
  }
}

class Source extends Card {
  constructor(mixer, name, digit, axis) {
    super(mixer, name, name[0].toUpperCase() + name.slice(1), digit);
    const address = `/source/${name}`;
    this.spectrum = new Spectrum(this.element, name, axis);
    this.hear(`/meter${address}`);
    this._gain(`Gain of ${name}`, `${address}/gain`);
    const row = element("div", { className: "buttons" });
    this.mute = this._switch("Mute", `Mute ${name}`, `${address}/mute`, "M", row);
    this.solo = this._switch("Solo", `Solo ${name}`, `${address}/solo`, "S", row);
    this.element.append(row);
    this.element.classList.add("source");
  }
}

class Output extends Card {
  constructor(mixer) {
    super(mixer, "mix", "Output", 0);
    const { link } = mixer;
    this.element.querySelector(".picture").remove();
    this.hear("/meter/output");
    this._gain("Gain of the output", "/output/gain");
    const wet = new Fader("Wet and dry", SHARE, (percent) => link.send("/wet", "f", percent / 100));
    link.on("/wet", ([share]) => wet.show(100 * share));
    this.element.append(element("h3", { textContent: "Dry to wet" }), wet.element);
    this.element.classList.add("output");
  }
}

export class Mixer {
  constructor(link, place) {
    this.link = link;
    this._place = place;
    this.cards = [];
    this.selected = null;
    link.onColumns((signals, rows, count, bytes) => this._columns(signals, rows, count, bytes));
  }

  /** Cards for these sources, in place of those before. */
  make(sources, axis) {
    const same = JSON.stringify([sources, axis]);
    if (same === this._made) return;
    this._made = same;
    for (const prefix of ["/source/", "/meter/", "/output/", "/wet"]) this.link.forget(prefix);
    this.cards = [
      new Input(this, axis),
      ...sources.map((name, n) => new Source(this, name, n + 1, axis)),
      new Output(this),
    ];
    this._place.replaceChildren(...this.cards.map((card) => card.element));
    this._place.style.setProperty("--cards", this.cards.length);
    this.select(this.cards[1], false);
  }

  /** Make a card the one that keys act on. */
  select(card, focus = false) {
    if (!card) return;
    this.selected = card;
    for (const other of this.cards) other.element.classList.toggle("selected", other === card);
    if (focus) (card.fader?.throw ?? card.element).focus();
  }

  digit(n) {
    this.select(n ? this.cards[n < this.cards.length - 1 ? n : -1] : this.cards.at(-1), true);
  }

  draw(now) {
    for (const card of this.cards) card.draw(now);
  }

  _columns(signals, rows, count, bytes) {
    const shown = this.cards.filter((card) => card.spectrum);
    if (shown.length !== signals) return; // of an engine that is about to change
    for (let column = 0; column < count; column++) {
      shown.forEach((card, n) => card.spectrum.add(bytes.subarray((column * signals + n) * rows, (column * signals + n + 1) * rows)));
    }
  }
}
