// The rings of the chosen device: a stream of their pictures while they are in sight.

import { $, el, keep, say, show } from "./dom.js";

const INTERVAL = 200; // milliseconds between two looks at what is in sight
const visible = new Set(); // figures of queues in sight, and the element of the tables
let tables = "";
let followed = ""; // query of the stream
let stream = null;

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) visible.add(entry.target);
    else visible.delete(entry.target);
  }
});

function wheel(queue) {
  const button = el("button", { type: "button", "aria-pressed": "false" }, queue);
  const figure = el("figure", {}, el("div"), el("figcaption", {}, button));
  button.addEventListener("click", () => choose(queue));
  seen.observe(figure);
  return figure;
}

function choose(queue) {
  tables = queue;
  for (const figure of $("wheels").children) {
    figure.querySelector("button").setAttribute("aria-pressed", figure.dataset.key === queue);
  }
}

export function showQueues(rates) {
  const names = rates.devices.map((device) => device.name);
  keep($("device"), names, (name) => el("option", { value: name }, name));
  const own = rates.queues.filter((queue) => queue.device === $("device").value);
  const queues = [...new Set(own.map((queue) => queue.queue))];
  keep($("wheels"), queues, wheel);
  if (!queues.includes(tables)) choose(queues.find((queue) => queue.startsWith("transmit")) ?? queues[0] ?? "");
}

// Return the query for the rings in sight; empty if nothing is to be drawn.
function wanted() {
  const device = $("device").value;
  if (!device || $("still").checked || document.hidden) return "";
  const figures = [...$("wheels").children].filter((figure) => visible.has(figure));
  const queues = new Set(figures.slice(0, 15).map((figure) => figure.dataset.key));
  const detailed = visible.has($("tables")) ? tables : "";
  if (detailed) queues.add(detailed);
  if (!queues.size) return "";
  const query = new URLSearchParams({ device, tables: detailed });
  for (const queue of queues) query.append("queue", queue);
  return query.toString();
}

function draw(pictures) {
  for (const figure of $("wheels").children) {
    const picture = pictures[figure.dataset.key];
    if (picture) show(figure.firstChild, picture.wheel);
  }
  if (pictures[tables]?.tables) show($("tables"), pictures[tables].tables);
}

function fail(why) {
  delete $("tables").picture;
  say($("tables"), why);
}

// Open a stream for the rings in sight, and another one when they change.
function update() {
  const query = wanted();
  if (query === followed) return;
  followed = query;
  stream?.close();
  stream = query ? new EventSource(`/api/ring-stream?${query}`) : null;
  if (!stream) return;
  const own = stream;
  own.addEventListener("rings", (message) => draw(JSON.parse(message.data)));
  own.addEventListener("absent", (message) => fail(JSON.parse(message.data).why));
  own.addEventListener("error", () => {
    if (own !== stream || own.readyState !== EventSource.CLOSED) return;
    fail("vnet web shows no rings: too many pages may follow this system");
    setTimeout(() => { if (own === stream) followed = ""; }, 2000);
  });
}

export function followRings() {
  seen.observe($("tables"));
  setInterval(update, INTERVAL);
}
