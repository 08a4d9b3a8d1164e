// Faults of links: a form that sets a rule, and the rules with what each has done.

import { act } from "./actions.js";
import { $, ask, el, keep, say } from "./dom.js";

const AMOUNTS = {
  all: { label: "all requests" },
  rate: { label: "some, by chance", unit: "Probability", min: 0, max: 1, step: "any", value: 0.5 },
  count: { label: "the next requests", unit: "Requests", min: 1, max: "", step: 1, value: 3 },
};
const FLAPS = { unit: "Every (ms)", min: 1, max: "", step: "any", value: 500 };

const flaps = () => $("fault").selectedOptions[0]?.hasAttribute("data-flaps");

// The rule in the form, as the control socket takes it.
function rule() {
  const amount = $("fault-amount").value;
  const number = Number($("fault-number").value);
  const made = { fault: $("fault").value };
  if (flaps()) made.every = number;
  else if (amount === "all") made.rate = 1;
  else made[amount] = number;
  if ($("fault-seconds").value) made.seconds = Number($("fault-seconds").value);
  return made;
}

// Show the fields that the chosen fault and amount need.
function fit() {
  const amount = flaps() ? FLAPS : AMOUNTS[$("fault-amount").value];
  const input = $("fault-number");
  say($("fault-about"), $("fault").selectedOptions[0]?.title ?? "");
  $("fault-amount").parentElement.hidden = Boolean(flaps());
  input.parentElement.hidden = input.disabled = amount.value === undefined;
  say($("fault-unit"), amount.unit ?? "");
  if (!input.disabled) Object.assign(input, { min: amount.min, max: amount.max, step: amount.step, value: amount.value });
}

function row({ link, name }) {
  const clear = el("button", { type: "button" }, `Clear ${name} of ${link}`);
  clear.addEventListener("click", () =>
    act(`${link}: ${name} is cleared`, "/api/fault-clear", { name: link, rules: [name] }));
  return el("li", {}, el("span"), clear);
}

export async function startFaults() {
  for (const { name, about, flaps } of await ask("/api/faults")) {
    $("fault").append(el("option", { value: name, title: about, "data-flaps": flaps }, name));
  }
  for (const [name, { label }] of Object.entries(AMOUNTS)) {
    $("fault-amount").append(el("option", { value: name }, label));
  }
  for (const place of ["fault", "fault-amount"]) $(place).addEventListener("change", fit);
  $("fault-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const link = $("fault-link").value;
    act(`${link}: ${$("fault").value} is set`, "/api/fault", { name: link, rules: [rule()] });
  });
  fit();
}

export function showFaults(rates) {
  const links = Object.keys(rates.links);
  $("faults").hidden = !links.length;
  keep($("fault-link"), links, (name) => el("option", { value: name }, name));
  const rules = new Map(rates.rules.map((each) => [`${each.link} ${each.name}`, each]));
  keep($("rules"), [...rules.keys()], (key) => row(rules.get(key)));
  for (const item of $("rules").children) {
    const { link, words } = rules.get(item.dataset.key);
    say(item.firstChild, `${link}: ${words}`);
  }
}
