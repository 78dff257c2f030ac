// The monitor page: joins the connection, the mixer, the graphs and the notices. What each of them does is its module's affair.

import { count, describe, number } from "./format.js";
import { Histogram, Timeline } from "./graphs.js";
import { Link } from "./link.js";
import { Listener } from "./listen.js";
import { Mixer, Switch } from "./mixer.js";
import { banner, happened, toast } from "./notices.js";
import { Menus } from "./menus.js";
import { listenToKeys } from "./keys.js";

const LATE_FOR = 10; // s after the last late hop that the banner stays
const PARTS = ["algorithmic", "buffering", "device"];

const $ = (id) => document.getElementById(id);
const link = new Link();
const mixer = new Mixer(link, $("mixer"), (signal) => listener.choose(signal));
const histogram = new Histogram($("histogram"));
const timeline = new Timeline($("timeline"));
const menus = new Menus(link);
let facts = null; // the set-up
let figures = {};
let state = "";

// ------------------------------------------------------------------------------------------------------------- switches

const bypass = toggle("bypass", "/bypass");
const panic = toggle("panic", "/panic");
toggle("record", "/record");
$("reset").addEventListener("click", () => link.send("/reset"));
link.on("/panic", ([on]) => banner("panic", on ? "Panic: nothing goes out. Press P, or Panic again, to let sound through." : "", { calm: true }));
link.on("/bypass", ([on]) => banner("bypass", on ? "Bypass: the input goes out as it came." : "", { calm: true }));
link.on("/record", ([on]) => $("record").classList.toggle("on", Boolean(on)));
link.on("/recording", ([folder]) => ($("record").title = folder));
link.on("/error", ([address, reason]) => {
  toast(`${address.split("/").slice(2).join(" ")}: ${reason}`);
  link.ask(address); // what was moved here has not moved there
});

function toggle(id, address) {
  const made = new Switch($(id), (on) => link.send(address, "i", Number(on)));
  link.on(address, ([on]) => made.show(on));
  return made;
}

// ------------------------------------------------------------------------------------------------------------- listening

const listener = new Listener(link, (source, line) => {
  $("heard").hidden = source === null;
  $("listening").textContent = line;
  for (const card of mixer.cards) {
    card.listening.show(card.signal === source);
    if (card.signal === source) $("listened").textContent = `${card.label}, heard here.`;
  }
});
$("volume").addEventListener("input", ({ target }) => listener.setVolume(target.value / 100));
$("unlisten").addEventListener("click", () => listener.choose(null));

// ----------------------------------------------------------------------------------------------------------------- state

link.onFacts("setup", (setup) => {
  if (facts && facts.version !== setup.version) return location.reload();
  const sources = facts?.sources.join();
  facts = setup;
  link.root = setup.root;
  mixer.make(setup.sources, setup.spectra);
  listener.say();
  histogram.shape(setup.histogram, setup.deadline_ms);
  timeline.deadline = setup.deadline_ms;
  menus.offer(setup);
  banner("read-only", setup.read_only ? "Read-only: this page shows, and does not steer." : "", { calm: true });
  if (sources && sources !== setup.sources.join()) happened(`other sources: ${setup.sources.join(", ")}`);
});

link.on("/state", ([told]) => {
  if (told !== state && state) happened(told === "running" ? "sound runs" : told, told === "device lost");
  state = told;
  showState();
});

link.onFacts("open", () => {
  if (state === "gone") happened("the daemon answers again");
  banner("gone", "");
});

link.onFacts("gone", async () => {
  if (state !== "gone") {
    happened("the daemon does not answer", true);
    state = "gone";
    showState();
  }
  const answer = await fetch(location.href, { cache: "no-store" }).catch(() => null);
  const stale = answer?.status === 403;
  if (state === "gone" && !link.open) {
    if (stale) banner("gone", "This page's address is an old one: open the one that streamsep printed when it started.");
    else banner("gone", "The daemon does not answer. Looking for it again.", { detail: "It has ended, or the network is away." });
  }
});

function showState() {
  const shown = state === "running" && timeline.recent(LATE_FOR).late ? "late" : state;
  $("state").dataset.state = shown;
  const words = { gone: "no answer", "": "connecting" };
  const text = words[shown] ?? shown;
  const place = $("state").lastElementChild;
  if (place.textContent !== text) place.textContent = text;
  document.title = shown === "running" ? "streamsep" : `${text} \u2013 streamsep`;
  const lost = state === "device lost" ? "No sound: the device is gone. Waiting for it to come back." : "";
  banner("device", lost, { detail: lost && (figures.problem ?? "") });
}

// --------------------------------------------------------------------------------------------------------------- figures

link.onFacts("figures", (told) => {
  figures = told;
  const ms = (key) => `${number(told[key] ?? 0, 2)} ms`;
  showLatency();
  showState();
  describe($("steps"), [
    ["median", ms("step_ms.p50")],
    ["99 of 100 within", ms("step_ms.p99"), told["step_ms.p99"] > told.deadline_ms],
    ["longest", ms("step_ms.max"), told["step_ms.max"] > told.deadline_ms],
    ["deadline", `${number(told.deadline_ms, 1)} ms`],
  ]);
  const xruns = told.input_xruns + told.output_xruns;
  describe($("counts"), [
    ["hops", told.hops.toLocaleString("en").replaceAll(",", "\u202f")],
    ["late", told.late, told.late],
    ["of them bridged", told.bridged],
    ["lost", told.lost, told.lost],
    ["xruns", xruns, xruns],
    ["blocks missed", told.missed_blocks, told.missed_blocks],
    ["device came back", told.reopened, told.reopened],
  ]);
  describe($("engine"), [
    ["network", `${told.model} on ${told.provider.toUpperCase()}`],
    ["audio path", told.c_api ? "compiled, no Python" : "through Python: ONNX Runtime has no C library here", !told.c_api],
    ["scheduling", told.realtime ? "real time" : "ordinary: docs/realtime.md", false],
    ["device", told.device],
    ["sound", `${told.sample_rate} Hz, ${told.in_channels} in, ${told.out_channels} out, block ${told.block}`],
    ["failed steps", told.failed_steps, told.failed_steps],
    ...(facts?.notes.length ? [["not used", facts.notes.join("; ")]] : []),
  ]);
  const unused = gpuUnused(told);
  banner("gpu", unused === null ? "" : "The GPU is not used: the network runs on the CPU.", { detail: unused ?? "" });
});

/** Why the GPU is not used where it was asked for, or is here and should be; null where that is as it should be. */
function gpuUnused({ provider }) {
  if (!facts || provider !== "cpu") return null;
  const reason = facts.notes.find((note) => note.startsWith("cuda")) ?? "";
  return facts.wants_gpu || (facts.has_gpu && reason && !facts.int8) ? reason : null;
}

function showLatency() {
  const part = (name) => figures[`latency_ms.${name}`] ?? 0;
  $("total").textContent = number(part("total"));
  $("parts").replaceChildren(...PARTS.map((name) => {
    const bar = document.createElement("span");
    bar.className = name;
    bar.style.flexGrow = Math.max(part(name), 0.01);
    return bar;
  }));
  describe($("latency"), [
    ...PARTS.map((name) => [`${name}`, `${number(part(name))} ms`]),
    ["total, constant", `${number(part("total"))} ms`],
  ]);
}

// ------------------------------------------------------------------------------------------------------------------ hops

link.onFacts("hops", ({ now, seconds, histogram: counts }) => {
  timeline.add(seconds, now).forEach(noteTrouble);
  histogram.draw(counts);
  timeline.draw();
  const { late, missed } = timeline.recent(LATE_FOR);
  const said = [late && count(late, "hop"), missed && count(missed, "block")].filter(Boolean).join(" and ");
  banner("late", said ? `Sound is late: ${said} not there in time in the last ${LATE_FOR} seconds.` : "");
  showState();
});

let spell = { until: -Infinity }; // trouble that goes on is one line, not a hundred

function noteTrouble({ when, late, xruns, missed }) {
  if (when - spell.until > LATE_FOR) {
    spell = { late: 0, xruns: 0, missed: 0, line: happened("", false, new Date(1000 * when)) };
  }
  spell.until = when;
  spell.late += late;
  spell.xruns += xruns;
  spell.missed += missed;
  const words = [[spell.late, "late hop"], [spell.xruns, "xrun"], [spell.missed, "missed block"]].filter(([n]) => n > 0);
  spell.line.lastChild.textContent = words.map(([n, word]) => count(n, word)).join(", ");
  spell.line.classList.toggle("grave", spell.late > 0);
}

// --------------------------------------------------------------------------------------------------------------- pictures

function draw(now) {
  mixer.draw(now);
  requestAnimationFrame(draw);
}

listenToKeys({ mixer, bypass, panic, listener, link });
matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => timeline.draw());
link.connect();
requestAnimationFrame(draw);

export { facts, link, listener, mixer };
