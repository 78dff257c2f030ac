// Numbers for people.

const MINUS = "\u2212";

/** With a real minus sign and so many places. */
export const number = (value, places = 1) => value.toFixed(places).replace("-", MINUS);

/** A level in dB; silence has a sign of its own. */
export const decibels = (value, silence = -90) => (value <= silence ? `${MINUS}\u221e` : number(value));

/** A time of day. */
export const clock = (date) => date.toLocaleTimeString([], { hour12: false });

/** "1 hop", "2 hops". */
export const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** Puts [term, description] pairs into a `dl`, changing only what is new. */
export function describe(list, pairs) {
  while (list.children.length > pairs.length) list.lastChild.remove();
  pairs.forEach(([term, text, grave], n) => {
    if (!list.children[n]) {
      const row = document.createElement("div");
      row.append(document.createElement("dt"), document.createElement("dd"));
      list.append(row);
    }
    const [dt, dd] = list.children[n].children;
    if (dt.textContent !== term) dt.textContent = term;
    if (dd.textContent !== String(text)) dd.textContent = text;
    dd.classList.toggle("grave", Boolean(grave));
  });
}
