// Elements, made of text only: nothing here or anywhere else on the page parses HTML.

/** @returns {HTMLElement} */
export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const { attributes = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Say `message` in an element that is there for it, or hide it. */
export function say(element, message) {
  element.textContent = message ?? "";
  element.hidden = !message;
}

/** `focus_areas` as people write it. */
export function words(name) {
  const spaced = name.replaceAll("_", " ").trim() || name;
  return spaced[0] ? spaced[0].toUpperCase() + spaced.slice(1) : spaced;
}
