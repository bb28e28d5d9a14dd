// How the rows of a data set are read: their format, what its fields are called in the file, and what comes of it.

import { ask, get, path as at, post } from "./api.js";
import { showError } from "./app.js";
import { debounced, field, fill, h, select } from "./dom.js";
import { has, named, t } from "./i18n.js";
import { said } from "./said.js";

export function columnsView(name, version, context) {
  const form = h("div.fields"), examples = h("div", { "aria-live": "polite" }), note = h("div", { role: "status" });
  const chosen = { format: version.reading.format ?? "auto", mapping: { ...version.reading.mapping } };
  const body = () => ({ version: version.number, ...chosen });
  let formats = [];
  const show = async () => {
    try {
      const found = await post(at`data/${name}/examples`, body(), { signal: context.signal });
      drawForm(found);
      // Before a format is chosen, every row would say the same.
      if (!found.format) return fill(examples);
      fill(examples, h("h2", t("columns.example")), found.ignored.length ? h("p.dim", t("columns.ignored", { fields: found.ignored.join(", ") })) : null,
        h("ul.plain", found.examples.map((one) => h("li", exampleCard(one)))));
    } catch (error) {
      fill(examples);
      showError(examples, error);
    }
  };
  const soon = debounced(100, show);
  const drawForm = (found) => {
    const format = formats.find((one) => one.name === (chosen.format === "auto" ? found.format : chosen.format));
    const titles = formats.map((one) => [one.name, named(`format.${one.name}`, one.name)]);
    const auto = ["auto", found.format && chosen.format === "auto" ? t("columns.found", { format: named(`format.${found.format}`, found.format) }) : t("data.auto")];
    const choice = select([auto, ...titles], chosen.format, (value) => { chosen.format = value; chosen.mapping = {}; soon(); });
    const column = (canonical, required) => {
      const value = chosen.mapping[canonical] ?? found.fields[canonical] ?? (canonical in version.fields ? canonical : "");
      // A column that is called so is read: nothing can be chosen but another.
      const nothing = canonical in version.fields ? [] : [["", t(required ? "columns.missing" : "columns.none")]];
      const names = select([...nothing, ...Object.keys(version.fields).map((one) => [one, one])], value, (next) => {
        chosen.format = format.name;
        if (next && next !== canonical) chosen.mapping[canonical] = next;
        else delete chosen.mapping[canonical];
        soon();
      });
      return field(has(`field.${canonical}`) ? `${t(`field.${canonical}`)} (${canonical})` : canonical, names);
    };
    const focused = form.contains(document.activeElement) ? document.activeElement.dataset.field : null;
    const controls = [["", field(t("columns.format"), choice)], ...(format?.required ?? []).map((one) => [one, column(one, true)]),
      ...(format?.optional ?? []).map((one) => [one, column(one, false)])];
    fill(form, controls.map(([key, control]) => { control.querySelector("select").dataset.field = key; return control; }));
    if (focused !== null) form.querySelector(`[data-field="${focused}"]`)?.focus();
    fill(suits, format ? t("columns.suits", { objectives: format.objectives.join(", ") }) : t("columns.found-none"));
  };
  const suits = h("p.dim");
  const save = async () => {
    try {
      await ask(at`data/${name}/reading`, { method: "PUT", body: body(), signal: context.signal });
      version.reading = { format: chosen.format, mapping: { ...chosen.mapping } };
      fill(note, h("p.notice", t("columns.saved")));
    } catch (error) { showError(note, error); }
  };
  get("recipes/row-formats", { signal: context.signal }).then((list) => { formats = list; return show(); }).catch((error) => showError(examples, error));
  return h("div", h("p", t("columns.what")), form, suits, h("p.row", h("button.primary", { onclick: save }, t("columns.save"))), note, examples);
}

/** A row as it is read, or why it cannot be. */
function exampleCard({ where, prompt, answer, error }) {
  const part = (key, text) => (text ? h("div", h("dt", t(key)), h("dd.clip", { dir: "auto" }, text)) : null);
  return h("article.card", h("h3", where.replace(/^.* /, `${t("data.row")} `)), error
    ? h("p", h("strong", said(error[0])), " ", said(error[1]))
    : h("dl.facts", part("columns.asked", prompt), part("columns.answer", answer)));
}
