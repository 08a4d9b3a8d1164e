// Elements of the page. Text is set as text, never as markup: names and reasons come from the system.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

// Set a text only if it differs, so that screen readers do not read it again.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Show an SVG document in `node`; an unchanged one is left as it is.
export function show(node, text) {
  if (node.picture === text) return;
  node.picture = text;
  const root = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  if (root.nodeName === "svg") node.replaceChildren(document.importNode(root, true));
}

// Keep one child of `parent` per key, in order, and no others: what has the focus stays.
export function keep(parent, keys, make) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  keys.forEach((key, at) => {
    let child = old.get(key);
    old.delete(key);
    if (child === undefined) {
      child = make(key);
      child.dataset.key = key;
    }
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
  });
  for (const child of old.values()) child.remove();
}

// Return the response to a request as JSON or text. Throws an Error with the reason.
export async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("vnet web does not answer: it may have ended");
  }
  const json = response.headers.get("Content-Type")?.startsWith("application/json");
  const value = json ? await response.json() : await response.text();
  if (!response.ok) throw new Error(json ? value.error : value);
  return value;
}
