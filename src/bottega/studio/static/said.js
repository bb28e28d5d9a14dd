// What the server says of errors and findings, in the language of the reader. Its own texts are English; those of
// `i18n/errors.LANGUAGE.json` have `{}` where it fills in a value, and the translation `{0}`, `{1}` … in any order.

import { h } from "./dom.js";
import { current, t } from "./i18n.js";

// A longer text is one that somebody wrote, not a message.
const LONGEST = 2000;

// Nor is what is looked through for a place that it begins with: there may be one before every colon.
const LONGEST_PLACED = 400;

// Values that are no texts: single words, which are names and numbers also where they are a text elsewhere, several of
// them, and code.
const PLAIN = /^(\S+(, \S+)*)?$/;
const CODE = /[[{=]/;

const loaded = new Map(); // language → its templates, or what loads them

/** A text of the server: at once as it is, and translated as soon as the translations are there. */
export function said(text) {
  const place = h("span", text ?? "");
  if (text && current() !== "en") {
    place.lang = "en";
    templates(current()).then((known) => {
      const own = translate(String(text), known);
      if (own === null) return;
      place.textContent = own;
      place.lang = current();
    }, () => null);
  }
  return place;
}

function templates(language) {
  if (!loaded.has(language)) {
    loaded.set(language, fetch(`i18n/errors.${language}.json`).then((answer) => answer.json()).then(compile));
  }
  return loaded.get(language);
}

/** Templates by their exact text, and those with values as patterns, the most specific first. */
function compile(texts) {
  const patterns = Object.entries(texts).filter(([text]) => text.includes("{}"))
    .sort(([a], [b]) => b.length - a.length)
    .map(([text, own]) => [isGeneral(text), new RegExp(`^${text.split("{}").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("([^]*?)")}$`), own]);
  return { texts, patterns };
}

/** Whether a template is little more than its values: "no {}" fits nearly everything. */
const isGeneral = (text) => text.replaceAll("{}", "").split(/\s+/).filter((word) => /\p{L}/u.test(word)).length < 2;

/** A text in the language of the templates; null if there is none. */
function translate(text, known) {
  if (Object.hasOwn(known.texts, text)) return known.texts[text];
  if (text.length > LONGEST) return null;
  return filled(text, known, false) ?? composed(text, known) ?? filled(text, known, true);
}

/** A template with its values, which may be texts themselves. */
function filled(text, known, general) {
  for (const [isGeneral, pattern, own] of known.patterns) {
    const values = isGeneral === general && text.match(pattern)?.slice(1);
    if (!values) continue;
    const said = values.map((value) => (PLAIN.test(value.trim()) ? value : translate(value, known) ?? (CODE.test(value) ? value : null)));
    if (general && said.includes(null)) continue;
    return own.replace(/\{(\d+)\}/g, (whole, place) => said[place] ?? values[place]);
  }
  return null;
}

/** Texts that are put together: a key or a place and what is wrong there, several texts, or several values. */
function composed(text, known) {
  const [, key, rest] = text.length <= LONGEST_PLACED ? text.match(/^([^:]{1,100}: )([^]+)$/) ?? [] : [];
  const own = rest ? translate(rest, known) : null;
  return own !== null ? key + own : joined(text, "; ", "; ", known) ?? joined(text, " or ", t("error.or"), known);
}

/** A text of several, if all of them are known. */
function joined(text, between, own, known) {
  const parts = text.split(between);
  const owns = parts.length > 1 ? parts.map((part) => translate(part, known)) : [null];
  return owns.includes(null) ? null : owns.join(own);
}
