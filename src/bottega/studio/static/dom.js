// Building the page. Texts become text nodes, never markup: what a data set or a model says cannot become a tag.

/**
 * An element with properties and children.
 * @param {string} tag  name, with classes after dots: "p.dim"
 * @param {object|Node|string} [properties]  `on…` are listeners, `data-…`, `aria-…` and `role` attributes, others
 *     properties; may be left out
 * @param {...(Node|string|number|null|undefined|false|Array)} children  nothing is drawn for null, undefined and false
 */
export function h(tag, properties, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  if (properties === null || typeof properties !== "object" || properties instanceof Node || Array.isArray(properties)) {
    children.unshift(properties);
  } else {
    for (const [key, value] of Object.entries(properties)) set(element, key, value);
  }
  add(element, children);
  return element;
}

function set(element, key, value) {
  if (value === undefined || value === null) return;
  if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
  else if (key === "style") Object.assign(element.style, value);
  else if (key.includes("-") || key === "role" || key === "for" || key === "list" || key === "colspan") {
    element.setAttribute(key, String(value));
  } else element[key] = value;
}

function add(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) add(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

/** Replace the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

/** An element of SVG, with attributes. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes ?? {})) element.setAttribute(key, String(value));
  add(element, children);
  return element;
}

let fields = 0;

/**
 * A control with its label, and a line of help under it.
 * @param {string} text
 * @param {HTMLElement} control
 * @param {string} [help]
 */
export function field(text, control, help) {
  control.id ||= `field-${++fields}`;
  const note = help ? h("small.help", { id: `${control.id}-help` }, help) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div.field", h("label", { for: control.id }, text), control, note);
}

/** A list to choose from. @param {[string, string][]} options  (value, text) of each */
export function select(options, value, onchange) {
  return h("select", { onchange: (event) => onchange?.(event.target.value) },
    options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
}

/** A table. @param {(string|Node)[]} head @param {(Node|string|number|null)[][]} rows */
export function table(head, rows, { caption, numeric = [] } = {}) {
  const kind = (index) => (numeric.includes(index) ? "number" : "");
  return h("div.table", { tabIndex: 0, role: "region", "aria-label": caption ?? "" }, h("table",
    caption ? h("caption", caption) : null,
    h("thead", h("tr", head.map((text, index) => h("th", { scope: "col", className: kind(index) }, text)))),
    h("tbody", rows.map((cells) => h("tr", cells.map((cell, index) => h("td", { className: kind(index) }, cell)))))));
}

/** Keeps a function from being called more than once in a while: the last call counts. */
export function debounced(milliseconds, action) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}
