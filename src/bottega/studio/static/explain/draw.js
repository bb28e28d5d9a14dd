// Drawing what a library does not have: strips of numbers, maps of attention, the grid of all heads.

import { h } from "../dom.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Red, green and blue of a colour of the style. */
function rgb(name) {
  const hex = css(name).replace("#", "");
  const full = hex.length === 3 ? [...hex].map((digit) => digit + digit).join("") : hex;
  return [0, 2, 4].map((start) => parseInt(full.slice(start, start + 2), 16));
}

/** A canvas with a size of its own; `scale`: pixels of the page for each of its pixels. */
function canvasOf(width, height, scale, label) {
  const canvas = h("canvas.pixels", { width, height, role: "img", "aria-label": label });
  canvas.style.width = `${width * scale}px`;
  canvas.style.height = `${height * scale}px`;
  return canvas;
}

/** Paint numbers: a colour for positive ones, another for negative ones, by their size. */
function paintSigned(canvas, rows) {
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  const back = rgb("--back"), up = rgb("--one"), down = rgb("--two");
  // The largest few of a state are far larger than the rest.
  const sizes = rows.flat().map(Math.abs).sort((a, b) => a - b), most = sizes[Math.floor(sizes.length * 0.98)] || 1;
  rows.forEach((row, y) => row.forEach((value, x) => {
    const part = Math.min(1, Math.abs(value) / most), color = value > 0 ? up : down, start = 4 * (y * canvas.width + x);
    for (let channel = 0; channel < 3; channel += 1) image.data[start + channel] = back[channel] + (color[channel] - back[channel]) * part;
    image.data[start + 3] = 255;
  }));
  context.putImageData(image, 0, 0);
}

/** A strip of numbers for each row. */
export function strips(rows, label, scale = 5) {
  if (!rows?.length) return null;
  const canvas = canvasOf(rows[0].length, rows.length, scale, label);
  if (rows.length === 1) canvas.style.height = "18px";
  paintSigned(canvas, rows);
  return canvas;
}

/** The weights of a head as a picture: a row for each position that looks. */
export function paintHead(canvas, weights, head) {
  const [, rows, columns] = weights.shape;
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  const back = rgb("--soft"), ink = rgb("--accent"), start = head * rows * columns;
  for (let cell = 0; cell < rows * columns; cell += 1) {
    const part = Math.sqrt(weights.bytes[start + cell] / 255); // small weights are seen, too
    for (let channel = 0; channel < 3; channel += 1) image.data[4 * cell + channel] = back[channel] + (ink[channel] - back[channel]) * part;
    image.data[4 * cell + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** A weight between 0 and 1. */
export const weightAt = (weights, head, row, column) => weights.bytes[(head * weights.shape[1] + row) * weights.shape[2] + column] / 255;

/** Bars of numbers, one of them marked; a click chooses one. */
export function bars(values, { label, chosen = -1, onchoose, name = (index) => String(index + 1) }) {
  const most = values.reduce((largest, value) => Math.max(largest, Math.abs(value ?? 0)), 1e-12);
  return h("div.columns", { role: "group", "aria-label": label }, values.map((value, index) => {
    const inner = h("i", { style: { height: `${(100 * Math.abs(value ?? 0)) / most}%` } });
    const text = `${name(index)}: ${value === null ? "–" : Number(value).toPrecision(3)}`;
    return onchoose ? h("button", { type: "button", title: text, "aria-label": text, "aria-pressed": String(index === chosen), onclick: () => onchoose(index) }, inner)
      : h("span", { title: text }, inner);
  }));
}
