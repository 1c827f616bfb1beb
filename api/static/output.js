// A structured output that grows: what has not changed keeps its elements, so nothing flickers,
// selections stay, and painting costs what has changed.

import { make, words } from "./dom.js";

const parts = new WeakMap(); // element -> { kind, value, children: Map }

// How tasks write maps, which a structured output cannot hold: {"key", "value"}, one a line.
const isPair = (each) =>
  each && Object.entries(each).every(([name, inner]) => ["key", "value"].includes(name) && typeof inner !== "object");

function kindOf(value) {
  if (Array.isArray(value)) {
    if (!value.some((each) => each && typeof each === "object")) return "list";
    return value.every(isPair) ? "pairs" : "cards";
  }
  if (value && typeof value === "object") return "object";
  return "text";
}

const TAGS = { object: "dl", list: "ul", cards: "ul", pairs: "ul", text: "p" };

function shown(value) {
  if (value === true) return "yes";
  if (value === false) return "no";
  return value === null || value === "" ? "–" : String(value);
}

function create(value) {
  const kind = kindOf(value);
  const element = make(TAGS[kind], { className: kind });
  if (kind === "text") element.dir = "auto"; // and so what it says of direction ends with it
  parts.set(element, { kind, value: undefined, children: new Map() });
  update(element, value);
  return element;
}

function update(element, value) {
  const part = parts.get(element);
  if (part.kind === "text") {
    if (part.value !== value) element.textContent = shown(value);
    part.value = value;
    return;
  }
  const entries = Object.entries(value);
  for (const [name, each] of entries) {
    const child = part.children.get(name);
    if (child) part.children.set(name, patch(child, each));
    else part.children.set(name, add(element, part.kind, name, each));
  }
  const kept = new Set(entries.map(([name]) => name));
  for (const [name, child] of part.children) {
    if (kept.has(name)) continue;
    (part.kind === "object" ? child.parentElement.parentElement : child.parentElement).remove();
    part.children.delete(name);
  }
}

function add(element, kind, name, value) {
  const child = create(value);
  if (kind === "object") {
    const title = make("dt", { textContent: words(name), dir: "auto" });
    element.append(make("div", {}, title, make("dd", {}, child)));
  } else {
    element.append(make("li", {}, child));
  }
  return child;
}

/** The element for `value`: the one that is there, if it is of its kind. */
function patch(element, value) {
  if (parts.get(element).kind === kindOf(value)) {
    update(element, value);
    return element;
  }
  const other = create(value);
  element.replaceWith(other);
  return other;
}

/** Show `value` in `place`, over what is shown there. */
export function paint(place, value) {
  const shownNow = place.firstElementChild;
  if (shownNow && parts.has(shownNow)) patch(shownNow, value);
  else place.replaceChildren(create(value));
}
