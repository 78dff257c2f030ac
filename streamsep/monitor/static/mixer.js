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
    this._row = element("div", { className: "buttons" });
    this.listening = new Switch(this._button("Listen", `Listen to ${label} in this browser`, "L"), () => mixer.listen(signal));
  }

  _button(text, label, key) {
    const button = element("button", { textContent: text, className: text.toLowerCase() });
    button.setAttribute("aria-label", label);
    button.setAttribute("aria-keyshortcuts", key);
    this._row.append(button);
    return button;
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
    this.element.querySelector("h2").append(fader.element.querySelector(".value")); // where it is seen from afar
    fader.element.querySelector(".line").remove();
    this.element.append(fader.element);
    this.fader = fader;
  }

  _switch(text, label, address, key) {
    const { link } = this._mixer;
    const made = new Switch(this._button(text, label, key), (on) => link.send(address, "i", Number(on)));
    link.on(address, ([on]) => made.show(on));
    return made;
  }
}

class Input extends Card {
  constructor(mixer, axis) {
    super(mixer, "input", "Input");
    this.spectrum = new Spectrum(this.element, "the input", axis);
    this.hear("/meter/input");
    this.element.append(mixer.from, this._row);
  }
}

class Source extends Card {
  constructor(mixer, name, digit, axis) {
    super(mixer, name, name[0].toUpperCase() + name.slice(1), digit);
    const address = `/source/${name}`;
    this.spectrum = new Spectrum(this.element, name, axis);
    this.hear(`/meter${address}`);
    this._gain(`Gain of ${name}`, `${address}/gain`);
    this.mute = this._switch("Mute", `Mute ${name}`, `${address}/mute`, "M");
    this.solo = this._switch("Solo", `Solo ${name}`, `${address}/solo`, "S");
    this._row.prepend(this.mute.button, this.solo.button);
    this.element.append(this._row);
  }
}

class Output extends Card {
  constructor(mixer) {
    super(mixer, "mix", "Output", 0);
    const { link } = mixer;
    this.element.querySelector(".picture").replaceWith(mixer.delay);
    this.hear("/meter/output");
    this._gain("Gain of the output", "/output/gain");
    const wet = new Fader("Wet", SHARE, (percent) => link.send("/wet", "f", percent / 100));
    link.on("/wet", ([share]) => wet.show(100 * share));
    this.element.append(wet.element, mixer.to, this._row);
  }
}

export class Mixer {
  /** `listen(signal)` is called where somebody wants to hear one. */
  constructor(link, place, listen) {
    this.link = link;
    this.listen = listen;
    [this.from, this.to, this.delay] = ["from", "to", "delay"].map((id) => document.getElementById(id));
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
