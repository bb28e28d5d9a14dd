// Tokenizers: the pieces of a text, two side by side, a search of the vocabulary, and one of one's own.

import { get, post } from "../api.js";
import { go, showError } from "../app.js";
import { debounced, field, fill, h, table } from "../dom.js";
import { shown } from "../explain/view.js";
import { number, t } from "../i18n.js";
import { modelInput } from "../parts.js";

// Sentences of the same content, to see which languages a tokenizer was made for.
const SAMPLES = { English: "The parcel arrives on Monday; please write to us if it is late.", Italiano: "Il pacco arriva lunedì; scriveteci se è in ritardo.", Deutsch: "Das Paket kommt am Montag; bitte schreiben Sie uns, falls es sich verspätet.",
  Français: "Le colis arrive lundi ; écrivez-nous s’il est en retard.", Ελληνικά: "Το δέμα φτάνει τη Δευτέρα· γράψτε μας αν καθυστερήσει.", Русский: "Посылка придёт в понедельник; напишите нам, если она опоздает.", 中文: "包裹星期一到达；如果晚了请写信给我们。", Python: "def area(radius):\n    return 3.14159 * radius ** 2\n" };

export async function page(place, parts, query, context) {
  const first = await modelInput(context, query.get("model")), second = await modelInput(context, query.get("beside") ?? "", false);
  const text = h("textarea", { rows: 4, value: query.get("text") ?? Object.values(SAMPLES).slice(0, 2).join("\n") });
  const pieces = h("div.sides"), languages = h("div"), errors = h("div"), search = h("input", { type: "search", autocomplete: "off" }), hits = h("div");
  const names = () => [first.value.trim(), second.value.trim()].filter(Boolean);
  const encode = (name, content) => post("tokenizers/encode", { model: name, text: content }, { signal: context.signal });

  const draw = debounced(200, async () => {
    try {
      const found = await Promise.all(names().map((name) => encode(name, text.value)));
      fill(errors);
      fill(pieces, found.map((one, index) => h("article.card", h("h3", names()[index]), h("p.dim", t("tokenizer.counts", { n: one.tokens.length, size: one.size, characters: number(one.characters_per_token), bytes: number(one.bytes_per_token) })),
        h("div.tokens", { dir: "auto" }, one.tokens.map((token) => h("span.piece", { title: `id ${token.id}: ${token.bytes}` }, token.text.replace(/\n/g, "↵\n")))),
        h("details", h("summary", t("tokenizer.ids")), table([t("tokenizer.token"), "id", t("tokenizer.bytes")], one.tokens.slice(0, 200).map((token) => [shown(token.text), token.id, token.bytes]), { numeric: [1] })))));
    } catch (error) { showError(errors, error); }
  });
  const compare = async () => {
    try {
      const rows = await Promise.all(Object.entries(SAMPLES).map(async ([language, sample]) => [language, ...(await Promise.all(names().map((name) => encode(name, sample)))).map((one) => number(one.characters_per_token, 2))]));
      fill(languages, table([t("tokenizer.language"), ...names()], rows, { caption: t("tokenizer.compression"), numeric: [1, 2] }));
    } catch (error) { showError(errors, error); }
  };
  const find = debounced(250, async () => {
    if (!search.value) return fill(hits);
    try {
      const found = await post("tokenizers/search", { model: names()[0], text: search.value }, { signal: context.signal });
      return fill(hits, h("p", t("tokenizer.found", { n: found.count })), h("div.tokens", found.tokens.map((token) => h("span.token", { title: `id ${token.id}: ${token.bytes}` }, `${shown(token.text)} `))));
    } catch (error) { return showError(hits, error); }
  });
  for (const input of [first, second]) input.addEventListener("input", debounced(500, () => { draw(); compare(); find(); }));
  text.addEventListener("input", draw);
  search.addEventListener("input", find);
  fill(place, h("h1", t("nav.tokenizer")), h("p", t("tokenizer.what")), h("div.fields", field(t("chat.first"), first), field(t("chat.second"), second, t("chat.second-help"))), field(t("explain.text"), text), errors, pieces,
    h("h2", t("tokenizer.compression")), languages, h("h2", t("tokenizer.search")), field(t("tokenizer.search-for"), search), hits, h("h2", t("tokenizer.train")), await training(context));
  if (names().length) { draw(); compare(); }
}

async function training(context) {
  const data = await get("data", { signal: context.signal });
  if (!data.length) return h("p.dim", t("home.no-data"));
  const name = h("input", { required: true, pattern: "[A-Za-z0-9][A-Za-z0-9_\\-]*", maxLength: 60, value: "tokenizer-1", autocomplete: "off" }), size = h("input", { type: "number", min: 300, max: 262144, value: 4096 });
  const boxes = data.map((set) => h("input", { type: "checkbox", value: set.name })), errors = h("div");
  boxes[0].checked = true;
  const start = async (event) => {
    event.preventDefault();
    try {
      const { task } = await post("tokenizers/train", { name: name.value, size: Number(size.value), data: boxes.filter((box) => box.checked).map((box) => box.value) }, { signal: context.signal });
      go(`task/${task}`);
    } catch (error) { showError(errors, error); }
  };
  return h("form", { onsubmit: start }, h("div.fields", field(t("label.name"), name), field(t("tokenizer.size"), size, t("tokenizer.size-help"))), h("fieldset", h("legend", t("tokenizer.texts")), boxes.map((box) => h("label.row", box, box.value))),
    h("button", { type: "submit" }, t("tokenizer.start")), errors);
}
