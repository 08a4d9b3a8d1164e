// The rings of the chosen device, read from memory again and again while they are in sight.

import { $, ask, el, keep, say, show } from "./dom.js";

const INTERVAL = 500; // milliseconds
const visible = new Set();
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
  for (const figure of visible) if (!figure.isConnected) visible.delete(figure);
  const queues = [...visible].map((figure) => figure.dataset.key).slice(0, 15);
  const device = $("device").value;
  if (!device || $("still").checked || document.hidden || (!queues.length && !tables)) return;
  const query = new URLSearchParams({ device, tables });
  for (const queue of new Set([...queues, tables])) query.append("queue", queue);
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
  for (;;) {
    await update();
    await new Promise((resolve) => setTimeout(resolve, INTERVAL));
  }
}
