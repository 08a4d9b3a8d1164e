// The page: one stream brings rates and events; pictures are asked for.

import { loadSettings, showControls } from "./actions.js";
import { addRates, drawCharts, startCharts } from "./charts.js";
import { $, ask, el, say, show } from "./dom.js";
import { addEvent, addLost, startEvents } from "./events.js";
import { showFaults, startFaults } from "./faults.js";
import { followRings, showQueues } from "./rings.js";

let latest = null;
let states = "";

function tell(text, bad) {
  say($("state"), text);
  $("state").className = bad ? "bad" : "";
}

async function drawTopology() {
  try {
    show($("topology"), await ask("/api/topology.svg"));
  } catch (error) {
    tell(error.message, true);
  }
}

async function readFunctions() {
  try {
    const hosts = await ask("/api/pci");
    $("functions").replaceChildren(...hosts.flatMap(({ host, tree, functions }) => [
      el("h3", {}, `${host} enumerates`),
      el("pre", {}, tree.join("\n")),
      ...functions.map(({ title, lines }) =>
        el("details", {}, el("summary", {}, title), el("pre", { tabindex: "0" }, lines.join("\n")))),
    ]));
    if (!hosts.length) say($("functions"), "No PCI function: none of the devices is behind a link.");
  } catch (error) {
    say($("functions"), error.message);
  }
}

function showRates(rates) {
  latest = rates;
  document.title = `${rates.system} - vnet`;
  say($("name"), rates.system);
  const down = [...Object.entries(rates.links).filter(([, up]) => !up).map(([name]) => name),
    ...rates.devices.filter((device) => !device.up).map((device) => device.name)];
  tell(down.length ? `running; down: ${down.join(", ")}` : "running; everything is up", down.length);
  showControls(rates);
  showFaults(rates);
  showQueues(rates);
  addRates(rates);
  const now = JSON.stringify([rates.links, rates.devices.map((device) => [device.name, device.up, device.trouble])]);
  if (now !== states) {
    states = now;
    drawTopology();
    readFunctions();
  }
}

function follow() {
  const stream = new EventSource("/api/stream");
  stream.addEventListener("rates", (message) => showRates(JSON.parse(message.data)));
  stream.addEventListener("event", (message) => {
    addEvent(JSON.parse(message.data));
  });
  stream.addEventListener("lost", (message) => addLost(Number(message.data)));
  stream.addEventListener("absent", (message) => {
    states = "";
    tell(JSON.parse(message.data).why, true);
  });
  stream.addEventListener("error", () => {
    tell("vnet web does not answer: it may have ended", true);
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  });
}

startCharts();
startEvents();
$("decode").addEventListener("click", readFunctions);
$("device").addEventListener("change", () => {
  if (latest) showQueues(latest);
  drawCharts();
});
await Promise.all([loadSettings(), startFaults()]).catch((error) => tell(error.message, true));
follow();
followRings();
