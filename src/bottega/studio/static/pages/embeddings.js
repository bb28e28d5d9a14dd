// Token embeddings: neighbours, analogies, an axis between two words, a map, and what tuning moved.

import { post } from "../api.js";
import { showError } from "../app.js";
import { plotly, style } from "../chart.js";
import { field, fill, h, select, table } from "../dom.js";
import { shown } from "../explain/view.js";
import { number, percent, t } from "../i18n.js";
import { modelInput, tabs } from "../parts.js";

export async function page(place, parts, query, context) {
  const model = await modelInput(context, query.get("model")), ask = (path, body) => post(`embeddings/${path}`, { model: model.value.trim(), ...body }, { signal: context.signal });
  const draw = () => tabs(t("embeddings.views"), [
    ["words", t("embeddings.words"), () => wordsView(ask)],
    ["map", t("embeddings.map"), () => mapView(ask)],
    ["drift", t("embeddings.drift"), () => driftView(ask, context)],
  ]);
  const views = h("div");
  model.addEventListener("change", () => fill(views, draw()));
  fill(place, h("h1", t("nav.embeddings")), h("p", t("embeddings.what")), h("div.narrow", field(t("chat.first"), model)), views);
  if (model.value) fill(views, draw());
  else fill(views, h("p.dim", t("home.no-models")));
}

function wordsView(ask) {
  const words = ["a", "b", "c"].map((key) => h("input", { autocomplete: "off", required: key === "a" })), found = h("div");
  const start = async (event) => {
    event.preventDefault();
    try {
      const answer = await ask("words", { words: words.map((word) => word.value.trim()).filter(Boolean) });
      if (answer.kind === "axis") fill(found, h("div.sides", [["low", 0], ["high", 1]].map(([side, index]) => list(answer[side], t("embeddings.towards", { word: words[index].value })))));
      else fill(found, list(answer.nearest, t(`embeddings.${answer.kind}`)));
    } catch (error) { showError(found, error); }
  };
  return h("div", h("form", { onsubmit: start }, h("p", t("embeddings.how")), h("div.fields", ["a", "b", "c"].map((key, index) => field(t(`embeddings.${key}`), words[index]))), h("button.primary", { type: "submit" }, t("embeddings.find"))), found);
}

const list = (tokens, caption) => table([t("tokenizer.token"), t("embeddings.cosine"), ""], tokens.map((token) => [shown(token.text), number(token.value, 3), h("div.bar", { style: { minWidth: "7rem" } }, h("i", { style: { width: `${Math.max(0, 100 * token.value)}%` } }))]), { caption, numeric: [1] });

function mapView(ask) {
  const plot = h("div.chart.tall", { role: "img", "aria-label": t("embeddings.map") }), note = h("p.dim"), search = h("input", { type: "search", autocomplete: "off" });
  const dimensions = select([["2", "2-D"], ["3", "3-D"]], "3", () => draw());
  let found = null;
  async function draw() {
    try {
      found ??= await ask("project", {});
      const Plotly = await plotly(), three = dimensions.value === "3", wanted = search.value.trim().toLowerCase();
      const text = style("--text"), groups = [[false, style("--two"), 3], [true, style("--one"), 7]];
      const data = groups.map(([hit, color, size]) => {
        const chosen = found.tokens.map((_, index) => index).filter((index) => (wanted !== "" && found.tokens[index].text.toLowerCase().includes(wanted)) === hit);
        const at = (axis) => chosen.map((index) => found.places[index][axis]);
        return { type: three ? "scatter3d" : "scattergl", mode: hit ? "markers+text" : "markers", x: at(0), y: at(1), ...(three ? { z: at(2) } : {}), text: chosen.map((index) => shown(found.tokens[index].text)), hoverinfo: "text", marker: { size, color, opacity: hit ? 1 : 0.6, symbol: hit ? "diamond" : "circle" }, name: t(hit ? "embeddings.hits" : "embeddings.others") };
      });
      const axis = { color: text, gridcolor: style("--line"), title: { text: "" }, zeroline: false };
      await Plotly.newPlot(plot, data, { margin: { l: 30, r: 0, t: 0, b: 30 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: text }, showlegend: wanted !== "", scene: { xaxis: axis, yaxis: axis, zaxis: axis }, xaxis: axis, yaxis: axis }, { displaylogo: false, responsive: true });
      fill(note, t("embeddings.variance", { n: found.tokens.length, part: percent(found.variance.slice(0, Number(dimensions.value)).reduce((sum, one) => sum + one, 0), 1) }));
    } catch (error) { showError(note, error); }
  }
  search.addEventListener("input", () => draw());
  draw();
  return h("div", h("div.fields", field(t("embeddings.dimensions"), dimensions), field(t("embeddings.mark"), search)), plot, note);
}

function driftView(ask, context) {
  const found = h("div"), place = h("div");
  modelInput(context, "", true).then((other) => {
    const start = async (event) => {
      event.preventDefault();
      try {
        const answer = await ask("drift", { other: other.value.trim() });
        fill(found, h("p", answer.same ? t("embeddings.same") : t("embeddings.mean", { cosine: number(answer.mean, 4) })), answer.same ? null : list(answer.moved, t("embeddings.moved")));
      } catch (error) { showError(found, error); }
    };
    fill(place, h("form", { onsubmit: start }, h("div.narrow", field(t("embeddings.other"), other)), h("button.primary", { type: "submit" }, t("embeddings.compare"))), found);
  }, (error) => showError(place, error));
  return place;
}
