// Elements of HTML and SVG. Text goes in as text: nothing here, or in any other module, makes markup of strings.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element; `attributes` as in markup, `children` elements or strings. */
export function html(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  set(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Only what differs is written, so that an update each second costs the browser little. Null and false remove. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) {
      if (element.hasAttribute(name)) element.removeAttribute(name);
    } else if (element.getAttribute(name) !== String(value)) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
}

export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes the children of `parent` those of `items`, in their order: each is made once, and updated from then on, so that
 * focus, hover and scroll stay where they are.
 */
export function keyed(parent, items, key, make, update) {
  const known = parent.keyedChildren ?? new Map();
  const next = new Map();
  let after = null;
  for (const item of items) {
    const name = key(item);
    if (next.has(name)) continue; // what is told twice is shown once
    const element = known.get(name) ?? make(item);
    next.set(name, element);
    update(element, item);
    const expected = after === null ? parent.firstChild : after.nextSibling;
    if (expected !== element) parent.insertBefore(element, expected);
    after = element;
  }
  for (const [name, element] of known) if (!next.has(name)) element.remove();
  parent.keyedChildren = next;
}
