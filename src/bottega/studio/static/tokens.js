// Rows as a model reads them: tokens, with those that carry a loss marked.

import { h } from "./dom.js";
import { t } from "./i18n.js";

// Longest row that is drawn whole.
const MOST = 2000;

/** The rows of a preview. */
export function tokenRows(preview) {
  return h("div",
    preview.notes.map((note) => h("p.notice", note)),
    preview.template ? h("p.dim", t("tokens.template", { name: preview.template })) : null,
    h("p.row", h("span.token.learned", t("tokens.learned")), h("span.token", t("tokens.read"))),
    preview.examples.map(([id, rows], index) => h("section.card", { "aria-label": id }, h("h3", id),
      rows.map((tokens, row) => h("div",
        preview.labels[index]?.[row] ? h("strong", preview.labels[index][row]) : null,
        tokenLine(tokens))))));
}

function tokenLine(tokens) {
  const learned = tokens.filter((token) => token.weight > 0).length;
  return h("div", h("div.tokens", { dir: "auto" }, tokens.slice(0, MOST).map(tokenSpan), tokens.length > MOST ? " …" : null),
    h("div.dim", t("tokens.counts", { n: tokens.length, learned })));
}

function tokenSpan(token) {
  const about = [`${token.id}`, token.weight > 0 && token.weight !== 1 ? `× ${token.weight}` : "", token.label].filter(Boolean).join(" ");
  // A token of nothing but spaces is seen all the same.
  return h(`span.token${token.weight > 0 ? ".learned" : ""}`, { title: about }, token.text.replace(/\n/g, "↵\n"), token.label ? h("sub", token.label) : null);
}
