// Sound from the daemon, heard in the browser: one signal at a time, late by a delay that is said.
//
// Packets come over the page's own connection and are queued as short buffers, each begun where the one before ends. That needs
// no AudioWorklet, which browsers give to https and to this machine alone, and a phone on stage is neither.

import { number } from "./format.js";

const LEAD = 0.12; // s that sound waits here, against an uneven network and a busy page
const MOST = 2 * LEAD; // s; what waits longer is left out
const STEER = 0.05; // of what waits too much or too little, in parts of the speed: two clocks are never the same ...
const LEAST = 0.02; // s; ... and so little is left alone
const FASTER = 0.005; // the speed changes by so much at most: nobody hears it
const CHUNK = 0.03; // s in a buffer
const FADE = 0.02; // s
const FULL = 32768; // of s16

export class Listener {
  /** `tell(source, line)` is called when something changes: what is heard (null: nothing), and what to say about it. */
  constructor(link, tell) {
    this._link = link;
    this._tell = tell;
    this.source = null;
    this.volume = 0.8;
    link.on("/audio/subscribe", (told) => this._begun(told));
    link.on("/audio", (packet) => this._take(packet));
    link.on("/audio/format", ([id, source, rate, channels, , , delay]) => this._again(id, source, rate, channels, delay));
    link.onFacts("open", () => this.source && this._subscribe());
    setInterval(() => this.say(), 500);
  }

  /** Listen to a source, "input" or "mix"; null, or the same again: to nothing. */
  choose(source) {
    this._silence();
    this.source = source === this.source ? null : source;
    this._link.send("/audio/unsubscribe");
    if (this.source) {
      this._context ??= this._open();
      this._context.resume();
      this._subscribe();
    }
    this.say();
  }

  setVolume(share) {
    this.volume = share;
    if (this._context) this._out.gain.value = share ** 2;
  }

  /** RMS of what is heard, linear. */
  level() {
    if (!this._context) return 0;
    const samples = new Float32Array(this._analyser.fftSize);
    this._analyser.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
  }

  _open() {
    const context = new AudioContext({ latencyHint: "interactive" });
    this._analyser = new AnalyserNode(context, { fftSize: 2048 });
    this._out = new GainNode(context, { gain: this.volume ** 2 });
    this._out.connect(this._analyser).connect(context.destination);
    return context;
  }

  _subscribe() {
    this._id = null;
    this._link.send("/audio/subscribe", "sisii", this.source, 0, "s16", 0, 2);
  }

  _begun([source, id, rate, channels, , , delay]) {
    if (source === this.source) this._start(id, rate, channels, delay);
  }

  /** The same stream with another number: the daemon has another engine. */
  _again(id, source, rate, channels, delay) {
    if (source === this.source && id !== this._id) this._start(id, rate, channels, delay);
  }

  _start(id, rate, channels, delay) {
    Object.assign(this, { _id: id, _rate: rate, _channels: channels, _delay: delay });
    this._waiting = [];
    this._frames = 0;
    this._expected = null;
    this._time = 0;
    this._bus = new GainNode(this._context, { gain: 1 });
    this._bus.connect(this._out);
  }

  _silence() {
    this._id = null;
    if (!this._bus) return;
    const { currentTime } = this._context;
    this._bus.gain.setValueAtTime(1, currentTime);
    this._bus.gain.linearRampToValueAtTime(0, currentTime + FADE);
    const bus = this._bus;
    setTimeout(() => bus.disconnect(), 5 * 1000 * FADE);
    this._bus = null;
  }

  _take([id, , channels, , blob, index]) {
    if (id !== this._id || channels !== this._channels) return;
    const frames = blob.byteLength / 2 / channels;
    const gap = this._expected === null ? 0 : index - this._expected; // lost on the way: silence in its place
    if (gap > 0 && gap < MOST * this._rate) {
      this._waiting.push(new Int16Array(gap * channels));
      this._frames += gap;
    }
    this._expected = index + frames;
    this._waiting.push(new Int16Array(blob.slice().buffer));
    this._frames += frames;
    if (this._frames >= CHUNK * this._rate) this._queue();
  }

  _queue() {
    const [packets, frames] = [this._waiting, this._frames];
    this._waiting = [];
    this._frames = 0;
    const now = this._context.currentTime;
    if (this._context.state !== "running" || this._time > now + MOST) return;
    const starved = this._time < now + 0.005;
    if (starved) this._time = now + LEAD;
    const buffer = new AudioBuffer({ length: frames, numberOfChannels: this._channels, sampleRate: this._rate });
    for (let c = 0; c < this._channels; c++) {
      const samples = buffer.getChannelData(c);
      let n = 0;
      for (const packet of packets) for (let i = c; i < packet.length; i += this._channels) samples[n++] = packet[i] / FULL;
      if (starved) for (let i = 0; i < Math.min(FADE * this._rate, frames); i++) samples[i] *= i / (FADE * this._rate);
    }
    const astray = this._time - now - LEAD;
    const speed = 1 + (Math.abs(astray) < LEAST ? 0 : Math.min(Math.max(STEER * astray, -FASTER), FASTER));
    const node = new AudioBufferSourceNode(this._context, { buffer, playbackRate: speed });
    node.connect(this._bus);
    node.start(this._time);
    this._time += frames / this._rate / speed;
  }

  /** How late the sound is here, with its parts. */
  say() {
    if (!this.source) return this._tell(null, "");
    if (this._id === null || this._time < this._context.currentTime) return this._tell(this.source, "Waiting for sound\u2026");
    const separation = 1e3 * (this._delay / this._rate);
    const queued = 1e3 * Math.max(0, this._time - this._context.currentTime);
    const browser = 1e3 * (this._context.outputLatency || this._context.baseLatency || 0);
    const way = this._link.roundTrip / 2;
    const parts = [[separation, "separation"], [way, "network"], [queued, "waiting here"], [browser, "this browser's output"]];
    const all = parts.reduce((sum, [ms]) => sum + ms, 0);
    const told = parts.map(([ms, what]) => `${number(ms, 0)} ${what}`).join(" + ");
    this._tell(this.source, `About ${number(all, 0)} ms late: ${told}.`);
  }
}
