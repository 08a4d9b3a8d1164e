// The rings of the chosen device, read from memory again and again while they are in sight.

import { $, ask, el, keep, say, show } from "./dom.js";

const INTERVAL = 500; // milliseconds
const visible = new Set(); // figures of queues in sight, and the element of the tables
let tables = "";

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

async function update() {
  const device = $("device").value;
  if (!device || $("still").checked || document.hidden) return;
  const figures = [...$("wheels").children].filter((figure) => visible.has(figure));
  const queues = new Set(figures.slice(0, 15).map((figure) => figure.dataset.key));
  const detailed = visible.has($("tables")) ? tables : "";
  if (detailed) queues.add(detailed);
  if (!queues.size) return;
  const query = new URLSearchParams({ device, tables: detailed });
  for (const queue of queues) query.append("queue", queue);
  let pictures;
  try {
    pictures = await ask(`/api/rings?${query}`);
  } catch (error) {
    delete $("tables").picture;
    say($("tables"), error.message);
    return;
  }
  for (const figure of $("wheels").children) {
    const picture = pictures[figure.dataset.key];
    if (picture) show(figure.firstChild, picture.wheel);
  }
  if (pictures[tables]?.tables) show($("tables"), pictures[tables].tables);
}

export async function followRings() {
  seen.observe($("tables"));
  for (;;) {
    await update();
    await new Promise((resolve) => setTimeout(resolve, INTERVAL));
  }
}
