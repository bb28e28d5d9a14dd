// A model opened up for any text.

import { ask, get, post } from "../api.js";
import { showError } from "../app.js";
import { field, fill, h } from "../dom.js";
import { ExplainView } from "../explain/view.js";
import { t } from "../i18n.js";

export async function page(place, parts, query, context) {
  const models = await get("models", { signal: context.signal });
  const input = (value) => h("input", { value, list: "models", autocomplete: "off" });
  const model = input(query.get("model") ?? models[0]?.name ?? ""), beside = input(query.get("beside") ?? "");
  const text = h("textarea", { rows: 3, value: query.get("text") ?? t("explain.example"), maxLength: 4000 });
  const view = h("div"), status = h("div", { role: "status" });
  let written = [];
  async function run({ position = null, keep = null } = {}) {
    fill(status, h("progress", { "aria-label": t("explain.computing") }));
    try {
      const body = { model: model.value.trim(), text: text.value, beside: beside.value.trim() || null, written: written.map((token) => token.id), position };
      const found = await post("explain", body, { signal: context.signal });
      const shown = new ExplainView({
        document: found.document,
        attention: (stack, layer, other, cross) => weights(found.id, stack, layer, other, cross, context),
        onposition: (index) => run({ position: index, keep: shown.chosen }),
        nearest: (logit) => get(`explain/${found.id}/token?logit=${logit}&position=${found.document.model.here.places.at(-1)}`, { signal: context.signal }),
        onsample: (token) => { written = [...written, token]; run({ keep: shown.chosen }); },
      });
      if (keep) { shown.chosen = keep; shown.draw(); }
      fill(status, written.length ? h("p", t("explain.written", { text: written.map((token) => token.text).join("") }), " ", h("button.plain", { onclick: () => { written = []; run(); } }, t("explain.reset"))) : null);
      fill(view, shown.element);
    } catch (error) {
      fill(status);
      showError(status, error);
    }
  }
  const start = (event) => { event.preventDefault(); written = []; run(); };
  const save = async () => {
    const blob = await (await ask("explain/page", { method: "POST", body: { model: model.value.trim(), text: text.value, beside: beside.value.trim() || null, written: written.map((token) => token.id), position: null } })).blob();
    const link = h("a", { href: URL.createObjectURL(blob), download: "explanation.html" });
    link.click();
  };
  fill(place, h("h1", t("nav.explain")), h("p", t("explain.what")), h("form", { onsubmit: start }, field(t("explain.text"), text),
    h("div.fields", field(t("explain.model"), model), field(t("explain.beside"), beside, t("explain.beside-help"))),
    h("div.row", h("button.primary", { type: "submit" }, t("explain.start")), h("button", { type: "button", onclick: () => save().catch((error) => showError(status, error)) }, t("explain.save")))),
  h("datalist", { id: "models" }, models.map((one) => h("option", { value: one.name }))), status, view);
  // What was drawn belongs to the text and the model it was drawn for.
  for (const input of [text, model, beside]) input.addEventListener("input", () => { written = []; });
  if (model.value) await run();
}

/** The weights of a layer, a byte each. */
async function weights(id, stack, layer, other, cross, context) {
  const answer = await ask(`explain/${id}/${stack}/${layer}?other=${other}&cross=${cross}`, { signal: context.signal });
  return { shape: answer.headers.get("x-shape").split(",").map(Number), bytes: new Uint8Array(await answer.arrayBuffer()) };
}
