// The explainer: a model opened up for one text. It shows what it is given, in the studio and in a page of its own.

import { fill, h, select, svg, table } from "../dom.js";
import { named, number, percent, t } from "../i18n.js";
import { bars, paintHead, strips, weightAt } from "./draw.js";
import { nextView } from "./next.js";
import { Tour } from "./tour.js";

// Longest edge of the large map of a head, in pixels.
const MAP = 520;

/**
 * @param {object} source
 * @param {object} source.document  what `bottega.explain` found
 * @param {(stack: number, layer: number, other: boolean, cross: boolean) => Promise<{shape: number[], bytes: Uint8Array}>} source.attention
 * @param {(position: number) => void} [source.onposition]  called when another position is to be read
 * @param {(token: object) => void} [source.onsample]  called with a token that was drawn
 * @param {(logit: number) => Promise<object>} [source.nearest]  a token that is not named, by about its logit
 */
export class ExplainView {
  constructor(source) {
    this.source = source;
    this.chosen = { stack: source.document.model.stacks.length - 1, layer: 0, head: 0, side: "model", cross: false };
    this.element = h("div.explain");
    this.tour = new Tour(source.document.other !== null);
    this.cache = new Map();
    this.draw();
  }

  get model() { return this.chosen.side === "other" ? this.source.document.other : this.source.document.model; }
  get stack() { return this.model.stacks[this.chosen.stack]; }
  get layer() { return this.stack.layers[this.chosen.layer]; }
  get position() { return this.model.here.places[this.chosen.stack]; }
  get strips() { return this.model.here.strips[this.chosen.stack][this.chosen.layer]; }

  /** The other model may have fewer layers, heads and stacks than the one that was looked at. */
  clamp() {
    const { chosen, model } = this;
    chosen.stack = Math.min(chosen.stack, model.stacks.length - 1);
    chosen.layer = Math.min(chosen.layer, this.stack.layers.length - 1);
    chosen.head = Math.max(0, Math.min(chosen.head, this.layer.heads - 1));
  }

  draw() {
    this.clamp();
    const { document } = this.source;
    fill(this.element, this.tour.element,
      document.other ? this.sideChoice() : null,
      this.section("anatomy", this.anatomy()),
      this.section("tokens", this.tokens()),
      this.section("embedding", this.embedding()),
      this.section("attention", this.attention()),
      this.section("layer", this.layerBox = h("div", this.layerParts())),
      this.model.here.lens ? this.section("lens", this.lens()) : null,
      this.model.here.next ? this.section("next", nextView(this.model.here.next, { tour: this.tour, onsample: this.source.onsample, nearest: this.source.nearest })) : null,
      document.difference || this.model.changes ? this.section("difference", this.difference()) : null);
  }

  section(name, content) {
    return h("section", { "aria-label": t(`explain.${name}`) }, h("h2", t(`explain.${name}`)), h("p.dim", t(`explain.${name}.what`, this.words())), content);
  }

  words() {
    const { anatomy } = this.model;
    return { ...anatomy, heads: anatomy.query_heads ?? 0, positions: this.positions(), mlp: anatomy.mlp, norm: anatomy.norm };
  }

  sideChoice() {
    const names = { model: this.source.document.model.name, other: this.source.document.other.name };
    return h("div.row", { role: "group", "aria-label": t("explain.side") }, Object.entries(names).map(([side, name]) => h("button", {
      "aria-pressed": String(this.chosen.side === side), onclick: () => { this.chosen.side = side; this.tour.done("beside"); this.draw(); },
    }, name.split("/").at(-1))));
  }

  /** How the model knows the order of tokens. */
  positions() { return named(`positions.${this.model.anatomy.positions}`, this.model.anatomy.positions); }

  anatomy() {
    const { anatomy } = this.model;
    const facts = [["family", anatomy.family], ["kind", t(`kind.${anatomy.kind}`)], ["parameters", number(anatomy.parameters)], ["layers", number(anatomy.layers)], ["width", number(anatomy.width)],
      ["vocabulary", number(anatomy.vocabulary)], ["heads", anatomy.query_heads ? `${number(anatomy.query_heads)} / ${number(anatomy.key_heads)}` : "–"], ["attention", t(`attention.${anatomy.attention}`)],
      ["positions", this.positions()], ["mlp", anatomy.mlp], ["norm", anatomy.norm]];
    if (anatomy.experts) facts.push(["experts", number(anatomy.experts)]);
    return h("dl.facts", facts.map(([key, value]) => h("div", h("dt", t(`anatomy.${key}`)), h("dd", value))));
  }

  tokens() {
    return h("div", this.model.stacks.length > 1 ? this.stackChoice() : null,
      h("div.tokens", { role: "group", "aria-label": t("explain.tokens") }, this.stack.tokens.map((token, index) => h("button.token", {
        type: "button", "aria-pressed": String(index === this.position), title: `${index + 1}: id ${token.id}, ${token.bytes}`,
        onclick: () => { this.tour.done("tokens"); this.source.onposition?.(index); },
      }, shown(token.text)))),
      h("p.dim", t("explain.chosen", { n: this.position + 1, id: this.stack.tokens[this.position].id, bytes: this.stack.tokens[this.position].bytes })));
  }

  stackChoice() {
    return select(this.model.stacks.map((stack, index) => [String(index), t(`kind.${stack.name}`)]), String(this.chosen.stack), (value) => {
      this.chosen = { ...this.chosen, stack: Number(value), layer: 0, head: 0, cross: false };
      this.draw();
    });
  }

  embedding() {
    const { embedded } = this.stack;
    if (!embedded) return null;
    return h("div.scroll", h("div.strips", h("div.names", this.stack.tokens.map((token) => h("span", shown(token.text)))), strips(embedded.strips, t("explain.embedding"), 12)));
  }

  // Attention: all heads small, one of them large

  attention() {
    if (!this.stack.layers.some((layer) => layer.heads)) return h("p", t("explain.no-attention"));
    const grid = h("div.heads", { role: "group", "aria-label": t("explain.grid") });
    const map = h("div"), layers = this.stack.layers;
    this.showMap = () => this.largeMap(map);
    const cross = layers.some((layer) => layer.cross) ? h("label.row", h("input", { type: "checkbox", checked: this.chosen.cross, onchange: (event) => { this.chosen.cross = event.target.checked; this.draw(); } }), t("explain.cross")) : null;
    this.inputs = {};
    const numbers = (count, key) => this.inputs[key] = h("input", { type: "number", min: 1, max: count, value: this.chosen[key] + 1, onchange: (event) => this.choose({ [key]: Math.min(count, Math.max(1, Number(event.target.value) || 1)) - 1 }) });
    this.fillGrid(grid);
    this.showMap();
    return h("div", h("div.row", h("label.row", t("explain.layer"), numbers(layers.length, "layer")), h("label.row", t("explain.head"), numbers(Math.max(...layers.map((layer) => layer.heads)), "head")), cross),
      h("div.scroll", grid), map);
  }

  /** Open another head or layer: what shows it is drawn again, and the focus stays where it is. */
  choose(change) {
    this.chosen = { ...this.chosen, ...change };
    this.tour.done("head");
    for (const button of this.element.querySelectorAll("button.thumb")) {
      button.setAttribute("aria-pressed", String(button.dataset.head === `${this.chosen.layer} ${this.chosen.head}`));
    }
    for (const [key, input] of Object.entries(this.inputs ?? {})) input.value = this.chosen[key] + 1;
    this.showMap?.();
    const label = document.activeElement?.getAttribute("aria-label"), inside = this.layerBox.contains(document.activeElement);
    fill(this.layerBox, this.layerParts());
    if (inside) [...this.layerBox.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === label)?.focus();
  }

  weights(layer) {
    const { stack, side, cross } = this.chosen, key = `${stack} ${layer} ${side} ${cross}`;
    if (!this.cache.has(key)) this.cache.set(key, this.source.attention(stack, layer, side === "other", cross));
    return this.cache.get(key);
  }

  async fillGrid(grid) {
    const thumbs = this.stack.layers.map((layer, index) => {
      const row = h("div.heads-row", h("span.dim", String(index + 1)));
      grid.append(row);
      return [layer, index, row];
    });
    for (const [layer, index, row] of thumbs) {
      if (!layer.heads) continue;
      const weights = await this.weights(index);
      for (let head = 0; head < weights.shape[0]; head += 1) {
        const canvas = h("canvas.thumb");
        paintHead(canvas, weights, head);
        const pressed = index === this.chosen.layer && head === this.chosen.head;
        row.append(h("button.thumb", { type: "button", "data-head": `${index} ${head}`, "aria-pressed": String(pressed), "aria-label": t("explain.open-head", { layer: index + 1, head: head + 1 }), onclick: () => this.choose({ layer: index, head }) }, canvas));
      }
      if (!grid.isConnected) return;
    }
  }

  async largeMap(place) {
    if (!this.layer.heads) return fill(place, h("p", t("explain.no-attention")));
    const weights = await this.weights(this.chosen.layer), head = Math.min(this.chosen.head, weights.shape[0] - 1);
    const [, rows, columns] = weights.shape, size = Math.max(4, Math.min(28, Math.floor(MAP / Math.max(rows, columns))));
    const canvas = h("canvas.pixels", { role: "img", "aria-label": t("explain.open-head", { layer: this.chosen.layer + 1, head: head + 1 }) });
    paintHead(canvas, weights, head);
    canvas.style.width = `${columns * size}px`;
    canvas.style.height = `${rows * size}px`;
    const looks = this.stack.tokens, seen = this.chosen.cross ? this.model.stacks[0].tokens : looks;
    const reading = h("p", { role: "status" }, t("explain.hover"));
    canvas.addEventListener("pointermove", (event) => {
      const column = Math.min(columns - 1, Math.floor(event.offsetX / size)), row = Math.min(rows - 1, Math.floor(event.offsetY / size));
      if (row < 0 || column < 0) return;
      this.tour.done("hover");
      fill(reading, t("explain.weight", { from: shown(looks[row].text), to: shown(seen[column].text), weight: percent(weightAt(weights, head, row, column), 1) }));
    });
    return fill(place, h("h3", t("explain.open-head", { layer: this.chosen.layer + 1, head: head + 1 })),
      h("div.row.top", h("div.scroll", canvas), this.lines(weights, head, looks, seen)), reading, this.weightTable(weights, head, seen));
  }

  /** What the chosen position looks at, as lines between two columns of tokens. */
  lines(weights, head, looks, seen) {
    const step = 20, [, , columns] = weights.shape, height = step * Math.max(looks.length, columns), drawn = [];
    for (let column = 0; column < columns; column += 1) {
      const weight = weightAt(weights, head, this.position, column);
      if (weight > 0.01) drawn.push(svg("line", { x1: 120, y1: (this.position + 0.5) * step, x2: 220, y2: (column + 0.5) * step, stroke: "currentColor", "stroke-width": 4 * weight, "stroke-opacity": 0.25 + 0.75 * weight }));
    }
    const word = (token, index, x, anchor, bold) => svg("text", { x, y: (index + 0.7) * step, "text-anchor": anchor, "font-size": 12, fill: "currentColor", "font-weight": bold ? 700 : 400 }, shown(token.text).slice(0, 14));
    return h("div.scroll", svg("svg", { width: 340, height, role: "img", "aria-label": t("explain.lines") }, drawn,
      looks.map((token, index) => word(token, index, 114, "end", index === this.position)), seen.map((token, index) => word(token, index, 226, "start", false))));
  }

  weightTable(weights, head, seen) {
    const list = seen.map((token, column) => [token, weightAt(weights, head, this.position, column)]).sort((a, b) => b[1] - a[1]).slice(0, 8);
    return table([t("explain.looks-at"), t("explain.share")], list.map(([token, weight]) => [shown(token.text), percent(weight, 1)]), { caption: t("explain.from", { token: shown(this.stack.tokens[this.position].text) }), numeric: [1] });
  }

  // One layer: what attention and MLP add

  layerParts() {
    const { layers } = this.stack, place = this.position;
    const at = (name) => layers.map((layer) => layer[name]?.[place] ?? null);
    const norms = layers.map((layer) => layer.state?.norms[place] ?? null);
    const chart = (key, values) => (values.some((value) => value !== null) ? h("figure", h("figcaption", t(`explain.${key}`, this.words())), bars(values, { label: t(`explain.${key}`, this.words()), chosen: this.chosen.layer, onchoose: (layer) => { this.tour.done("layer"); this.choose({ layer }); } })) : null);
    const strip = (kind) => (this.strips[kind] ? h("figure", h("figcaption", t(`explain.${kind}`)), h("div.scroll", strips([this.strips[kind]], t(`explain.${kind}`), 8))) : null);
    return h("div", h("div.charts", chart("attended", at("attended")), chart("fed", at("fed")), chart("residual", norms)),
      h("h3", t("explain.in-layer", { n: this.chosen.layer + 1 })), strip("query"), strip("key"), strip("value"),
      this.layer.state ? h("figure", h("figcaption", t("explain.state")), h("div.scroll", strips([this.layer.state.strips[place]], t("explain.state"), 8))) : null,
      this.layer.router ? h("figure", h("figcaption", t("explain.router")), bars(this.layer.router[place], { label: t("explain.router") })) : null);
  }

  lens() {
    const rows = this.model.here.lens.map((row, index) => [index === 0 ? t("explain.embedding") : number(index), number(row.entropy),
      ...row.tokens.map((token) => h("span", { style: { background: `color-mix(in srgb, var(--good) ${Math.round(45 * token.p)}%, transparent)`, padding: "0 .2rem" } }, shown(token.text), h("small", ` ${percent(token.p, token.p < 0.1 ? 1 : 0)}`)))]);
    const seen = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) this.tour.done("lens"); });
    const box = table([t("explain.layer"), t("explain.entropy"), ...this.model.here.lens[0].tokens.map((_, index) => String(index + 1))], rows, { caption: t("explain.lens-at", { token: shown(this.stack.tokens[this.position].text) }), numeric: [0, 1] });
    seen.observe(box);
    return box;
  }

  difference() {
    const { difference } = this.source.document, parts = [];
    const go = (layer) => this.choose({ layer });
    if (this.model.changes) parts.push(h("figure", h("figcaption", t("explain.changes")), bars(this.model.changes, { label: t("explain.changes"), chosen: this.chosen.layer, onchoose: go })));
    if (difference) {
      parts.push(h("figure", h("figcaption", t("explain.states-differ")), bars(difference.states, { label: t("explain.states-differ"), chosen: this.chosen.layer, onchoose: go })));
      const heads = difference.attention.flatMap((values, layer) => values.map((value, head) => ({ layer, head, value }))).sort((a, b) => b.value - a.value).slice(0, 8);
      if (heads.length) {
        parts.push(table([t("explain.layer"), t("explain.head"), t("explain.moved"), ""], heads.map((one) => [number(one.layer + 1), number(one.head + 1), percent(one.value, 1),
          h("button", { type: "button", onclick: () => this.choose({ layer: one.layer, head: one.head }) }, t("explain.open"))]), { caption: t("explain.attention-differs"), numeric: [0, 1, 2] }));
      }
    }
    return h("div", parts);
  }
}

/** A token as it can be seen: a space and a line break are signs. */
export const shown = (text) => (text === "" ? "∅" : text.replace(/ /g, "·").replace(/\n/g, "↵").replace(/\t/g, "⇥"));
