// Buttons: links down and up, resets of devices, settings.

import { $, ask, el, keep, say } from "./dom.js";

let settings = {};

export async function act(words, path, body) {
  try {
    await ask(path, body);
    say($("outcome"), words);
    $("outcome").className = "";
  } catch (error) {
    say($("outcome"), error.message);
    $("outcome").className = "bad";
  }
}

function linkButton(name) {
  const button = el("button", { type: "button" });
  button.addEventListener("click", () => {
    const up = button.dataset.up !== "true";
    act(`${name} is ${up ? "up" : "down"}`, "/api/link", { name, up });
  });
  return button;
}

function settingForm(name, type) {
  const select = el("select", { "aria-label": `Setting of ${name}` });
  for (const own of settings[type] ?? []) select.append(el("option", { value: own.name }, own.name));
  const value = el("input", { "aria-label": `Value of the setting of ${name}`, spellcheck: "false" });
  const describe = () => {
    const own = settings[type].find((each) => each.name === select.value);
    value.placeholder = own.values;
    value.disabled = own.values === "";
    select.title = own.help;
  };
  const form = el("form", {}, select, value, el("button", {}, "Set"));
  select.addEventListener("change", describe);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const body = { name, setting: select.value, value: value.value };
    act(`${name}: ${body.setting} ${body.value}`.trim(), "/api/set", body);
  });
  describe();
  return form;
}

function deviceRow(device) {
  const reset = el("button", { type: "button" }, `Reset ${device.name}`);
  reset.addEventListener("click", () => act(`${device.name} was reset`, "/api/reset", { name: device.name }));
  const row = el("div", { class: "device" }, el("span", { class: "words" }), reset);
  if (settings[device.type]?.length) row.append(settingForm(device.name, device.type));
  return row;
}

export async function loadSettings() {
  settings = await ask("/api/settings");
}

export function showControls(rates) {
  keep($("links"), Object.keys(rates.links), linkButton);
  for (const button of $("links").children) {
    const up = rates.links[button.dataset.key];
    button.dataset.up = up;
    say(button, `${button.dataset.key} is ${up ? "up: take it down" : "down: bring it up"}`);
  }
  const devices = new Map(rates.devices.map((device) => [device.name, device]));
  keep($("devices"), [...devices.keys()], (name) => deviceRow(devices.get(name)));
  for (const row of $("devices").children) {
    const device = devices.get(row.dataset.key);
    const words = row.querySelector(".words");
    const state = device.up ? "up" : `down: ${device.trouble}`;
    const title = `${device.name}: ${device.type} over ${device.transport}, ${state}; restarts ${device.restarts}`;
    say(words, device.verdict ? `${title}; ${device.verdict}` : title);
    words.classList.toggle("down", !device.up || Boolean(device.verdict));
  }
}
