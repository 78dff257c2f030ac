// What must be seen at once (banners), for a moment (toast), and afterwards (the list of what happened).

import { clock } from "./format.js";

const SHOWN = 40; // lines that are kept
const TOAST = 6000; // ms

const banners = new Map();

/** A banner, by its name; no text: none. `calm` is for what was asked for and still must not be overlooked. */
export function banner(name, text, { calm = false, detail = "" } = {}) {
  if ((banners.get(name)?.textContent ?? "") === text + detail) return;
  let line = banners.get(name);
  if (!text) {
    line?.remove();
    banners.delete(name);
    return;
  }
  if (!line) {
    line = document.createElement("p");
    line.className = calm ? "banner calm" : "banner";
    line.dataset.name = name;
    document.getElementById("banners").append(line);
    banners.set(name, line);
  }
  const strong = document.createElement("strong");
  strong.textContent = text;
  line.replaceChildren(strong, detail);
}

let timer;

/** A line for a few seconds: why something could not be done. */
export function toast(text) {
  const line = document.getElementById("toast");
  line.textContent = text;
  line.classList.add("shown");
  clearTimeout(timer);
  timer = setTimeout(() => line.classList.remove("shown"), TOAST);
}

/** A line in the list of what happened; the line, whose last child is the text. */
export function happened(text, grave = false, when = new Date()) {
  const list = document.getElementById("events");
  list.querySelector(".none")?.remove();
  const line = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = clock(when);
  time.dateTime = when.toISOString();
  line.append(time, " ", text);
  line.classList.toggle("grave", grave);
  list.prepend(line);
  while (list.children.length > SHOWN) list.lastChild.remove();
  return line;
}
