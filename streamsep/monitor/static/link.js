// The connection to the daemon: OSC both ways, facts as JSON, spectrogram columns. Comes again by itself when it has gone.

import { decode, encode } from "./osc.js";

const COLUMNS = 1; // what a message of spectrogram columns begins with
const METERS = 30; // Hz
const ALIVE = 2000; // ms between two pings; they keep the subscriptions, and measure the way there and back
const AGAIN = [300, 3000]; // ms until the next try: the first time, and at most

export class Link {
  constructor() {
    this.root = "/streamsep"; // what the addresses of this stream begin with
    this.roundTrip = 0; // ms
    this.open = false;
    this._heard = new Map(); // address -> functions
    this._last = new Map(); // address -> values
    this._asked = new Map(); // address -> when, ms
    this._facts = new Map(); // kind -> functions
    this._columns = () => {};
    this._pause = AGAIN[0];
    document.addEventListener("visibilitychange", () => this._tellLooks());
    setInterval(() => this.send("/ping", "f", performance.now() % 1e6), ALIVE);
    this.on("/pong", ([sent]) => (this.roundTrip = Math.max(0, (performance.now() % 1e6) - sent)));
  }

  /** Hear the values of an address (below the root), the last ones at once. */
  on(address, hear) {
    if (!this._heard.has(address)) this._heard.set(address, []);
    this._heard.get(address).push(hear);
    if (this._last.has(address)) hear(this._last.get(address));
  }

  /** Hear facts of one kind: "setup", "figures", "hops", "devices"; or "open" and "gone". */
  onFacts(kind, hear) {
    if (!this._facts.has(kind)) this._facts.set(kind, []);
    this._facts.get(kind).push(hear);
  }

  /** Hear spectrogram columns: (signals, rows, count, bytes). */
  onColumns(hear) {
    this._columns = hear;
  }

  /** Forget who hears what of single sources: there may be others now. */
  forget(prefix) {
    for (const map of [this._heard, this._last]) {
      for (const address of [...map.keys()]) if (address.startsWith(prefix)) map.delete(address);
    }
  }

  send(address, types, ...values) {
    if (this.open) this._socket.send(encode(this.root + address, types, ...values));
  }

  /** Ask what an address (a whole one) holds, not more often than is of use. */
  ask(address) {
    const below = address.slice(this.root.length);
    if (!this._last.has(below) || performance.now() - (this._asked.get(below) ?? -Infinity) < ALIVE) return;
    this._asked.set(below, performance.now());
    this.send(below);
  }

  /** Ask which devices there are; they come as facts. */
  askDevices() {
    if (this.open) this._socket.send(JSON.stringify({ devices: true }));
  }

  connect() {
    const url = new URL(`socket${location.search}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    this._socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.open = true;
      this._pause = AGAIN[0];
      this._last.clear();
      this.tell("open");
      this.send("/notify", "i", 2);
      this.send("/meters/subscribe", "f", METERS);
      this._tellLooks();
    };
    socket.onmessage = ({ data }) => this._take(data);
    socket.onclose = () => {
      this.open = false;
      this.tell("gone");
      setTimeout(() => this.connect(), this._pause);
      this._pause = Math.min(2 * this._pause, AGAIN[1]);
    };
  }

  _tellLooks() {
    if (this.open) this._socket.send(JSON.stringify({ looks: !document.hidden }));
  }

  /** Facts of one kind, for all who hear them. */
  tell(kind, facts) {
    for (const hear of this._facts.get(kind) ?? []) hear(facts);
  }

  _take(data) {
    if (typeof data === "string") {
      for (const [kind, facts] of Object.entries(JSON.parse(data))) this.tell(kind, facts);
      return;
    }
    const head = new Uint8Array(data, 0, 4);
    if (head[0] === COLUMNS) {
      this._columns(head[1], head[2], head[3], new Uint8Array(data, 8));
      return;
    }
    decode(data, (address, values) => {
      const below = address.slice(this.root.length);
      this._last.set(below, values);
      for (const hear of this._heard.get(below) ?? []) hear(values);
    });
  }
}
