// The texts of the studio, in the language of the reader. One file a language, with the same keys in each.

export const LANGUAGES = { en: "English", it: "Italiano" };
const STORED = "bottega.language";

let texts = {};
let language = "en";

/** The code of the language in use. */
export const current = () => language;

/** Load the texts of a language, by default the one chosen before or the browser's. */
export async function load(wanted) {
  const preferred = wanted ?? localStorage.getItem(STORED) ?? navigator.languages.map((name) => name.slice(0, 2)).find((name) => name in LANGUAGES);
  language = preferred in LANGUAGES ? preferred : "en";
  if (wanted) localStorage.setItem(STORED, language);
  const answer = await fetch(`i18n/${language}.json`);
  texts = await answer.json();
  document.documentElement.lang = language;
}

/**
 * Add texts that only some pages need, in the language in use: `part`.`language`.json. In English there may be none:
 * the server's own descriptions are English.
 */
export async function loadPart(part) {
  if (language === "en") return;
  const answer = await fetch(`i18n/${part}.${language}.json`);
  for (const [key, text] of Object.entries(await answer.json())) texts[`${part}.${key}`] = text;
}

/** Use texts that are there already. */
export function use(code, given) {
  language = code;
  texts = given;
  document.documentElement.lang = code;
}

/**
 * A text by its key, with {names} filled in. `key#one` is taken for `n` of 1, where there is such a text.
 * @param {string} key
 * @param {Record<string, string|number>} [values]
 */
export function t(key, values = {}) {
  const text = (values.n === 1 && texts[`${key}#one`]) || texts[key];
  if (text === undefined) {
    console.error(`no text for ${key} in ${language}`);
    return key;
  }
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? show(values[name]) : whole));
}

/** Whether there is a text for a key. */
export const has = (key) => key in texts;

/** What the program has a name for, by the key of its text; the name itself where there is none. */
export const named = (key, name) => (has(key) ? t(key) : name);

const show = (value) => (typeof value === "number" ? number(value) : String(value));

/** A number as the reader writes it. */
export function number(value, digits) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const options = digits === undefined ? { maximumSignificantDigits: 4, useGrouping: true }
    : { minimumFractionDigits: digits, maximumFractionDigits: digits };
  if (digits === undefined && Number.isInteger(value)) return new Intl.NumberFormat(language).format(value);
  return new Intl.NumberFormat(language, options).format(value);
}

/** A fraction in percent. */
export const percent = (value, digits = 0) => (value === null || value === undefined ? "–"
  : new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value));

/** A number of bytes. */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${number(value, value < 10 && unit ? 1 : 0)} ${units[unit]}`;
}

/** A duration in seconds. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return t("time.ms", { n: Math.round(seconds * 1000) });
  if (seconds < 100) return t("time.s", { n: number(seconds, seconds < 10 ? 1 : 0) });
  if (seconds < 5400) return t("time.min", { n: number(seconds / 60, 0) });
  return t("time.h", { h: Math.floor(seconds / 3600), m: Math.round((seconds % 3600) / 60) });
}

/** A moment, in seconds since 1970. */
export const moment = (seconds) => new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(seconds * 1000);
