// OSC 1.0 packets: what goes out is one message, what comes in a message or a bundle of them. Knows no address.

const text = new TextEncoder();
const plain = new TextDecoder();
const padded = (length) => (length + 4) & ~3; // a string and its zeros

/** One message as bytes. `types` has a letter for each value: i, f, s. */
export function encode(address, types = "", ...values) {
  const strings = [address, `,${types}`].map((s) => text.encode(s));
  const bodies = values.map((value, n) => (types[n] === "s" ? text.encode(value) : value));
  const size =
    strings.reduce((sum, s) => sum + padded(s.length), 0) +
    bodies.reduce((sum, body) => sum + (body instanceof Uint8Array ? padded(body.length) : 4), 0);
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  let at = 0;
  const put = (s) => {
    bytes.set(s, at);
    at += padded(s.length);
  };
  strings.forEach(put);
  bodies.forEach((body, n) => {
    if (body instanceof Uint8Array) return put(body);
    if (types[n] === "i") view.setInt32(at, body);
    else view.setFloat32(at, body);
    at += 4;
  });
  return bytes;
}

/** Calls `hear(address, values)` for each message in a packet. */
export function decode(buffer, hear, start = 0, end = buffer.byteLength) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  if (bytes[start] === 0x23) {
    // "#bundle", a time, then sizes and packets
    for (let at = start + 16; at < end; ) {
      const size = view.getInt32(at);
      decode(buffer, hear, at + 4, at + 4 + size);
      at += 4 + size;
    }
    return;
  }
  let at = start;
  const string = () => {
    const stop = bytes.indexOf(0, at);
    const found = plain.decode(bytes.subarray(at, stop));
    at += padded(stop - at);
    return found;
  };
  const take = {
    i: () => view.getInt32((at += 4) - 4),
    f: () => view.getFloat32((at += 4) - 4),
    d: () => view.getFloat64((at += 8) - 8),
    h: () => Number(view.getBigInt64((at += 8) - 8)),
    s: string,
    T: () => 1,
    F: () => 0,
    N: () => null,
    b: () => {
      const size = view.getInt32(at);
      const blob = bytes.subarray(at + 4, at + 4 + size);
      at += 4 + ((size + 3) & ~3);
      return blob;
    },
  };
  const address = string();
  const values = [...string().slice(1)].map((type) => take[type]());
  hear(address, values);
}
