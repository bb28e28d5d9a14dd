// Rows as a model reads them: tokens, with those that carry a loss marked.

import { h } from "./dom.js";
import { named, t } from "./i18n.js";
import { said } from "./said.js";

// Longest row that is drawn whole.
const MOST = 2000;

/** What a row is beside the others of its example; the class of a row is a name of the user's. */
function rowName(text, objective) {
  const [kind, ...more] = text.split(": ");
  const own = objective === "classify" ? kind : named(`row.${kind}`, kind);
  return [own, ...more].join(": ");
}

/** The rows of a preview, as an objective reads them. */
export function tokenRows(preview, objective) {
  return h("div",
    preview.notes.map((note) => h("p.notice", said(note))),
    preview.template ? h("p.dim", t("tokens.template", { name: preview.template })) : null,
    h("p.row", h("span.token.learned", t("tokens.learned")), h("span.token", t("tokens.read"))),
    preview.examples.map(([id, rows], index) => h("section.card", { "aria-label": id }, h("h3", id),
      rows.map((tokens, row) => h("div",
        preview.labels[index]?.[row] ? h("strong", rowName(preview.labels[index][row], objective)) : null,
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
