// The next token: from logits to probabilities, with temperature, top-k, top-p and min-p, and a draw.

import { fill, h, table } from "../dom.js";
import { number, percent, t } from "../i18n.js";
import { shown } from "./view.js";

// Tokens of which a bar is drawn.
const SHOWN = 16;

/**
 * The probabilities of the likeliest tokens, and of all others in groups of about the same logit.
 * @param {{tokens: {logit: number}[], rest: [number, number][]}} next  the others as (logit, count)
 * @returns {{shown: number[], groups: {logit: number, part: number}[], others: number}}
 */
export function probabilities(next, { temperature, topK, topP, minP }) {
  const most = next.tokens[0].logit, weight = (logit) => Math.exp((logit - most) / temperature);
  // From the likeliest on: each token is a group of one, then the groups of all others.
  let groups = [...next.tokens.map(({ logit }) => ({ logit, count: 1 })), ...[...next.rest].sort((a, b) => b[0] - a[0]).map(([logit, count]) => ({ logit, count }))];
  // In the order in which a sampler cuts: top-k (what is as likely as the last of the k stays), top-p, min-p.
  if (topK > 0 && topK <= next.tokens.length) groups = groups.filter(({ logit }, rank) => rank < topK || logit >= groups[topK - 1].logit);
  if (topP < 1) {
    const total = groups.reduce((sum, { logit, count }) => sum + count * weight(logit), 0);
    let before = 0;
    groups = groups.map((group) => {
      const each = weight(group.logit) / total, kept = Math.min(group.count, Math.max(0, Math.ceil((topP - before) / each - 1e-9)));
      before += group.count * each;
      return { ...group, count: kept };
    });
  }
  if (minP > 0) groups = groups.filter(({ logit }) => weight(logit) >= minP);
  const sum = groups.reduce((whole, { logit, count }) => whole + count * weight(logit), 0);
  const parts = groups.filter(({ count }) => count).map(({ logit, count }) => ({ logit, part: (count * weight(logit)) / sum }));
  const named = Math.min(parts.length, next.tokens.length);
  const others = parts.slice(named);
  return { shown: next.tokens.map((_, rank) => (rank < named ? parts[rank].part : 0)), groups: others, others: others.reduce((whole, { part }) => whole + part, 0) };
}

/** A draw: the rank of a token that is named, or the logit of one that is not. */
export function draw(found, random = Math.random()) {
  let left = random;
  for (let rank = 0; rank < found.shown.length; rank += 1) {
    left -= found.shown[rank];
    if (left < 0) return { rank };
  }
  for (const { logit, part } of found.groups) {
    left -= part;
    if (left < 0) return { logit };
  }
  return { rank: 0 };
}

/** The likeliest next tokens with their bars, kept up to date while the controls move. */
export function nextView(next, { tour, onsample, nearest }) {
  const settings = { temperature: 1, topK: 0, topP: 1, minP: 0 }, list = h("div");
  const slider = (key, min, max, step) => {
    const value = h("output", number(settings[key]));
    const input = h("input", { type: "range", min, max, step, value: settings[key], oninput: () => { settings[key] = Number(input.value); fill(value, number(settings[key])); tour.done("temperature"); show(); } });
    return h("label.slider", h("span", t(`next.${key}`)), input, value);
  };
  function show() {
    const found = probabilities(next, settings);
    fill(list, table([t("next.token"), t("next.logit"), t("next.probability"), ""], next.tokens.slice(0, SHOWN).map((token, rank) => [shown(token.text), number(token.logit), percent(found.shown[rank], 1),
      h("div.bar", { style: { minWidth: "7rem" } }, h("i", { style: { width: `${100 * found.shown[rank]}%` } }))]), { caption: t("explain.next"), numeric: [1, 2] }),
    h("p.dim", t("next.others", { part: percent(found.others + found.shown.slice(SHOWN).reduce((sum, value) => sum + value, 0), 1) })));
  }
  async function sample() {
    const drawn = draw(probabilities(next, settings));
    tour.done("sample");
    onsample(drawn.logit === undefined ? next.tokens[drawn.rank] : await nearest(drawn.logit));
  }
  show();
  return h("div", h("div.fields", slider("temperature", 0.1, 3, 0.05), slider("topK", 0, 40, 1), slider("topP", 0.05, 1, 0.05), slider("minP", 0, 0.5, 0.01)),
    list, onsample ? h("button.primary", { type: "button", onclick: sample }, t("next.sample")) : null);
}
