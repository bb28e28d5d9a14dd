// The next token: from logits to probabilities, with temperature, top-k, top-p and min-p, and a draw.

import { fill, h, table } from "../dom.js";
import { number, percent, t } from "../i18n.js";
import { shown } from "./view.js";

// Tokens of which a bar is drawn.
const SHOWN = 16;

/**
 * The probabilities of the likeliest tokens, and of all others together.
 * @param {{tokens: {logit: number}[], rest: [number, number][]}} next  the others as (logit, count)
 */
export function probabilities(next, { temperature, topK, topP, minP }) {
  const logits = next.tokens.map((token) => token.logit), most = logits[0];
  const weight = (logit) => Math.exp((logit - most) / temperature);
  let weights = logits.map(weight);
  let others = next.rest.reduce((sum, [logit, count]) => sum + count * weight(logit), 0);
  // In the order in which a sampler cuts: top-k, top-p, min-p.
  if (topK > 0 && topK <= weights.length) { weights = weights.map((value, rank) => (rank < topK ? value : 0)); others = 0; }
  const total = weights.reduce((sum, value) => sum + value, 0) + others;
  if (topP < 1) {
    let before = 0;
    weights = weights.map((value) => { const keep = before < topP; before += value / total; return keep ? value : 0; });
    if (before >= topP) others = 0;
  }
  if (minP > 0) { weights = weights.map((value) => (value >= minP * weights[0] ? value : 0)); others = weights.at(-1) > 0 ? others : 0; }
  const sum = weights.reduce((whole, value) => whole + value, 0) + others;
  return { shown: weights.map((value) => value / sum), others: others / sum };
}

/** The likeliest next tokens with their bars, kept up to date while the controls move. */
export function nextView(next, { tour, onsample }) {
  const settings = { temperature: 1, topK: 0, topP: 1, minP: 0 }, list = h("div");
  const slider = (key, min, max, step) => {
    const value = h("output", number(settings[key]));
    const input = h("input", { type: "range", min, max, step, value: settings[key], oninput: () => { settings[key] = Number(input.value); fill(value, number(settings[key])); tour.done("temperature"); draw(); } });
    return h("label.slider", h("span", t(`next.${key}`)), input, value);
  };
  function draw() {
    const found = probabilities(next, settings);
    fill(list, table([t("next.token"), t("next.logit"), t("next.probability"), ""], next.tokens.slice(0, SHOWN).map((token, rank) => [shown(token.text), number(token.logit), percent(found.shown[rank], 1),
      h("div.bar", { style: { minWidth: "7rem" } }, h("i", { style: { width: `${100 * found.shown[rank]}%` } }))]), { caption: t("explain.next"), numeric: [1, 2] }),
    h("p.dim", t("next.others", { part: percent(found.others + found.shown.slice(SHOWN).reduce((sum, value) => sum + value, 0), 1) })));
  }
  function sample() {
    const found = probabilities(next, settings), whole = found.shown.reduce((sum, value) => sum + value, 0);
    let left = Math.random() * whole;
    const index = found.shown.findIndex((value) => { left -= value; return left < 0 && value > 0; });
    tour.done("sample");
    onsample(next.tokens[Math.max(index, 0)]);
  }
  draw();
  return h("div", h("div.fields", slider("temperature", 0.1, 3, 0.05), slider("topK", 0, 40, 1), slider("topP", 0.05, 1, 0.05), slider("minP", 0, 0.5, 0.01)),
    list, onsample ? h("button.primary", { type: "button", onclick: sample }, t("next.sample")) : null);
}
