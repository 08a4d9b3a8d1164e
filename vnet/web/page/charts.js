// Rates of the chosen device as charts and as a table. Lines differ in their dashes, and a list names them.

import { $, el, keep, say, svg } from "./dom.js";

const SECONDS = 60;
const WIDTH = 480, HEIGHT = 170, LEFT = 52, BOTTOM = 20, TOP = 10;
const DASHES = ["", "8 4", "2 3", "12 3 2 3", "5 5", "1 5", "16 4", "4 2 1 2"];
const LINES = DASHES.length;
const COLOURS = ["#1864ab", "#c2410c", "#2b8a3e", "#5f3dc4"];
const METRICS = {
  packets: "packets/s", bits: "bit/s", kicks: "kicks/s", calls: "interrupts (calls)/s", in_flight: "chains in flight",
  drops: "drops/s", rescues: "lost notifications/s", batch: "packets per batch",
  notifications_per_packet: "notifications per packet",
};
const COLUMNS = ["device", "side", "queue", "state", "packets", "bits", "kicks", "calls", "notifications_per_packet",
  "batch", "in_flight", "num", "drops", "rescues"];
const HEADINGS = ["device", "side", "queue", "state", "pkt/s", "bit/s", "kick/s", "call/s", "sent/pkt", "pkt/batch",
  "in flight", "num", "drop/s", "rescue/s"];
const history = new Map(); // key of a queue -> [{time, queue}]
const charts = [];

const key = (queue) => `${queue.device} ${queue.side} ${queue.queue}`;

function short(value) {
  if (value === null || value === undefined) return "-";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= size) return `${(value / size).toPrecision(3)}${unit}`;
  }
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}

// The smallest of 1, 2, 5, 10, 20, ... that is not below the value.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) ?? 1;
}

const look = (number) => ({
  fill: "none", stroke: COLOURS[number % COLOURS.length], "stroke-width": 2,
  "stroke-dasharray": DASHES[number % DASHES.length],
});

function draw(chart, now) {
  const metric = chart.select.value;
  const own = [...history].filter(([, samples]) => samples.at(-1).queue.device === $("device").value);
  const lines = own.slice(0, LINES);
  const points = lines.flatMap(([, samples]) => samples.map((sample) => sample.queue[metric] ?? 0));
  const top = ceiling(Math.max(...points, 1));
  const x = (time) => WIDTH - (now - time) / SECONDS * (WIDTH - LEFT);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const parts = [0, 0.5, 1].flatMap((part) => [
    svg("line", { x1: LEFT, x2: WIDTH, y1: y(part * top), y2: y(part * top), stroke: "#ced4da" }),
    svg("text", { x: LEFT - 6, y: y(part * top) + 4, "text-anchor": "end", "font-size": 11 }, short(part * top)),
  ]);
  for (const [seconds, anchor] of [[60, "start"], [30, "middle"], [0, "end"]]) {
    const text = seconds ? `${seconds} s ago` : "now";
    parts.push(svg("text", { x: x(now - seconds), y: HEIGHT - 5, "text-anchor": anchor, "font-size": 11 }, text));
  }
  lines.forEach(([, samples], number) => {
    const course = samples.map(({ time, queue }) => `${x(time).toFixed(1)},${y(queue[metric] ?? 0).toFixed(1)}`);
    parts.push(svg("polyline", { points: course.join(" "), ...look(number) }));
  });
  chart.picture.replaceChildren(...parts);
  chart.picture.setAttribute("aria-label", `${METRICS[metric]} of the last minute`);
  say(chart.rest, own.length > LINES ? `${own.length - LINES} more queues are in the table` : "");
  keep(chart.legend, lines.map(([name]) => name), () => el("li", {}, svg("svg"), el("span")));
  lines.forEach(([name, samples], number) => {
    const [sample, words] = chart.legend.children[number].children;
    sample.replaceChildren(svg("line", { x1: 0, x2: 34, y1: 5, y2: 5, ...look(number) }));
    say(words, `${name.split(" ").slice(1).join(" ")} ${short(samples.at(-1).queue[metric])}`);
  });
}

function makeChart(metric) {
  const select = el("select", { "aria-label": "Rate in the chart" });
  for (const [name, words] of Object.entries(METRICS)) {
    select.append(el("option", { value: name, selected: name === metric }, words));
  }
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const chart = { select, picture, legend: el("ul"), rest: el("p", { class: "hint" }) };
  select.addEventListener("change", drawCharts);
  $("charts").append(el("div", { class: "chart" }, select, picture, chart.legend, chart.rest));
  charts.push(chart);
}

export function drawCharts() {
  for (const chart of charts) draw(chart, performance.now() / 1000);
}

export function addRates(rates) {
  const now = performance.now() / 1000;
  const present = new Set(rates.queues.map(key));
  for (const name of history.keys()) if (!present.has(name)) history.delete(name);
  for (const queue of rates.queues) {
    const samples = history.get(key(queue)) ?? [];
    samples.push({ time: now, queue });
    while (now - samples[0].time > SECONDS) samples.shift();
    history.set(key(queue), samples);
  }
  drawCharts();
  keep($("table").tBodies[0], rates.queues.map(key), () => el("tr", {}, ...COLUMNS.map(() => el("td"))));
  rates.queues.forEach((queue, at) => {
    const cells = $("table").tBodies[0].rows[at].cells;
    COLUMNS.forEach((name, column) => {
      const value = queue[name];
      say(cells[column], typeof value === "string" ? value : short(value));
    });
  });
}

export function startCharts() {
  makeChart("packets");
  makeChart("kicks");
  $("table").tHead.append(el("tr", {}, ...HEADINGS.map((words) => el("th", { scope: "col" }, words))));
}
