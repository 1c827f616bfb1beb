// A form made of a JSON schema, and the input made of what is filled in.

import { make, words } from "./dom.js";

const SHORT = 300; // up to so many characters, a line is enough

/** A property's schema without what stands around it: `$ref`, and null as an alternative. */
function plain(schema, root) {
  let found = schema;
  for (let depth = 0; depth < 10; depth += 1) {
    const choices = (found.anyOf ?? found.oneOf)?.filter((each) => each.type !== "null");
    let inner;
    if (found.$ref) inner = root.$defs?.[found.$ref.split("/").pop()];
    else if (choices?.length === 1) inner = choices[0];
    else if (found.allOf?.length === 1) inner = found.allOf[0];
    if (!inner) return found;
    const { $ref, anyOf, oneOf, allOf, ...around } = found;
    found = { ...inner, ...around };
  }
  return found;
}

function kindOf(schema, root) {
  if (schema.enum?.every((each) => typeof each === "string")) return "choice";
  if (schema.type === "string") return schema.maxLength <= SHORT ? "line" : "text";
  if (schema.type === "integer" || schema.type === "number") return "number";
  if (schema.type === "boolean") return "boolean";
  if (schema.type === "array" && schema.items && plain(schema.items, root).type === "string") return "lines";
  return "json";
}

function hintOf(schema, kind, required) {
  const { minimum: low, maximum: high, minItems: few, maxItems: many } = schema;
  const said = [schema.description];
  if (kind === "number" && low !== undefined && high !== undefined) said.push(`${low} to ${high}.`);
  if (kind === "lines") {
    const range = few && many ? `, ${few} to ${many}` : few ? `, at least ${few}` : many ? `, at most ${many}` : "";
    said.push(`One per line${range}.`);
  }
  if (kind === "line" && schema.maxLength) said.push(`Up to ${schema.maxLength} characters.`);
  if (kind === "json") said.push("As JSON.");
  if (!required && kind !== "boolean") said.push("Optional.");
  return said.filter(Boolean).join(" ");
}

function controlOf(field, id) {
  const { kind, schema, required } = field;
  const needed = required && (schema.minLength > 0 || schema.minItems > 0 || ["number", "json", "choice"].includes(kind));
  const common = { id, name: field.name, required: needed };
  if (kind === "choice") {
    const none = required ? [] : [make("option", { value: "", textContent: "–" })];
    const options = schema.enum.map((value) => make("option", { value, textContent: value }));
    return make("select", common, ...none, ...options);
  }
  if (kind === "boolean") return make("input", { ...common, type: "checkbox", required: false });
  if (kind === "number") {
    const limits = { min: schema.minimum ?? "", max: schema.maximum ?? "" };
    return make("input", { ...common, ...limits, type: "number", step: schema.type === "integer" ? "1" : "any" });
  }
  if (kind === "line") return make("input", { ...common, autocomplete: "off" });
  const rows = { text: 7, lines: 3, json: 5 }[kind];
  return make("textarea", { ...common, rows, spellcheck: kind !== "json", className: kind });
}

/** A value that cannot be sent, in words, at its field. */
class Unreadable extends Error {}

function valueOf({ kind, name, control, required, schema }) {
  const text = control.value;
  if (kind === "boolean") return control.checked;
  if (kind === "lines") {
    const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
    return lines.length || required ? lines : undefined;
  }
  if (text === "" && (!required || schema.type !== "string")) return undefined;
  if (kind === "number") return Number(text);
  if (kind !== "json") return text;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Unreadable(`${words(name)}: ${error.message}`);
  }
}

function fill({ kind, control }, value) {
  if (kind === "boolean") control.checked = value === true;
  else if (value === undefined || value === null) control.value = kind === "choice" ? control.options[0].value : "";
  else if (kind === "lines") control.value = value.join("\n");
  else control.value = kind === "json" ? JSON.stringify(value, null, 2) : String(value);
}

export class Form {
  /** The fields of a task's input, in `place`. */
  constructor(place, schema) {
    const required = new Set(schema.required ?? []);
    this.fields = Object.entries(schema.properties ?? {}).map(([name, given]) => {
      const found = plain(given, schema);
      return { name, schema: found, kind: kindOf(found, schema), required: required.has(name) };
    });
    place.replaceChildren(...this.fields.map((field) => this.#row(field)));
    this.fill({});
  }

  #row(field) {
    const id = `field-${field.name}`;
    field.control = controlOf(field, id);
    field.trouble = make("p", { id: `${id}-trouble`, className: "trouble", hidden: true });
    const hint = make("p", { id: `${id}-hint`, className: "hint", textContent: hintOf(field.schema, field.kind, field.required) });
    field.control.setAttribute("aria-describedby", `${hint.id} ${field.trouble.id}`);
    const label = make("label", { htmlFor: id, textContent: words(field.name) });
    const inner = field.kind === "boolean" ? [make("div", { className: "line" }, field.control, label)] : [label, field.control];
    return make("div", { className: "field" }, ...inner, field.trouble, hint);
  }

  fill(values) {
    for (const field of this.fields) fill(field, values[field.name] ?? field.schema.default);
    this.blame([]);
  }

  /** The input; null, with the reason at its field, if something cannot be read. */
  read() {
    this.blame([]);
    const values = [];
    for (const field of this.fields) {
      try {
        values.push([field.name, valueOf(field)]);
      } catch (error) {
        this.blame([{ path: `input.${field.name}`, problem: error.message }]);
        return null;
      }
    }
    return Object.fromEntries(values.filter(([, value]) => value !== undefined));
  }

  /** Show what is wrong where it is; returns what belongs to no field. */
  blame(errors) {
    const at = (field) => errors.filter(({ path }) => path === `input.${field.name}` || path.startsWith(`input.${field.name}.`));
    const placed = new Set();
    for (const field of this.fields) {
      const own = at(field);
      own.forEach((each) => placed.add(each));
      field.trouble.textContent = own.map(({ problem }) => problem).join("; ");
      field.trouble.hidden = own.length === 0;
      field.control.setAttribute("aria-invalid", String(own.length > 0));
    }
    this.fields.find((field) => !field.trouble.hidden)?.control.focus();
    return errors.filter((each) => !placed.has(each));
  }
}
