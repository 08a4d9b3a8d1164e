// The event log: the newest first, with a filter; lost events are counted.

import { $, el, say } from "./dom.js";

const KEPT = 500;
const events = [];
let total = 0;
let lost = 0;

const time = (stamp) => {
  const at = new Date(stamp.seconds * 1000 + stamp.microseconds / 1000);
  return `${at.toTimeString().slice(0, 8)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
};

const words = (value) => (Array.isArray(value) ? value.join(" ") : String(value));

function line(event) {
  const data = Object.entries(event.data).map(([key, value]) => `${key}=${words(value)}`);
  return { at: time(event.timestamp), text: [event.event, ...data].join("  ") };
}

function row(entry) {
  const item = el("li", { class: entry.lost ? "lost" : undefined });
  if (entry.at) item.append(el("time", {}, entry.at));
  item.append(entry.text);
  return item;
}

function matches(entry) {
  const wanted = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = entry.text.toLowerCase();
  return wanted.every((word) => text.includes(word));
}

function count() {
  const shown = $("log").childElementCount;
  say($("counts"), `${total} events, ${shown} shown${lost ? `, ${lost} lost: the page read too slowly` : ""}`);
}

function render() {
  $("log").replaceChildren(...events.filter(matches).map(row));
  count();
}

function add(entry) {
  events.unshift(entry);
  events.length = Math.min(events.length, KEPT);
  if (!$("hold").checked && matches(entry)) {
    $("log").prepend(row(entry));
    while ($("log").childElementCount > KEPT) $("log").lastChild.remove();
  }
  count();
}

export function addEvent(event) {
  total += 1;
  add(line(event));
}

export function addLost(number) {
  lost += number;
  add({ lost: true, text: `${number} events lost: the page read too slowly` });
}

export function startEvents() {
  $("filter").addEventListener("input", render);
  $("hold").addEventListener("change", render);
  $("clear").addEventListener("click", () => {
    events.length = 0;
    render();
  });
}
