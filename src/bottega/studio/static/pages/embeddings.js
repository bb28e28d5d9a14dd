// Token embeddings: neighbours, analogies, an axis between two words, a map, and what tuning moved.

import { post } from "../api.js";
import { showError } from "../app.js";
import { plotly, style } from "../chart.js";
import { field, fill, h, select, table } from "../dom.js";
import { shown } from "../explain/view.js";
import { number, percent, t } from "../i18n.js";
import { modelInput, tabs } from "../parts.js";
import { scatter } from "../scatter.js";

export async function page(place, parts, query, context) {
  const model = await modelInput(context, query.get("model")), ask = (path, body) => post(`embeddings/${path}`, { model: model.value.trim(), ...body }, { signal: context.signal });
  const draw = () => tabs(t("embeddings.views"), [
    ["words", t("embeddings.words"), () => wordsView(ask)],
    ["map", t("embeddings.map"), () => mapView(ask)],
    ["drift", t("embeddings.drift"), () => driftView(ask, context)],
  ], parts[0]);
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
  const place = h("div"), note = h("p.dim"), search = h("input", { type: "search", autocomplete: "off" });
  const dimensions = select([["2", "2-D"], ["3", "3-D"]], "3", () => draw());
  let found = null;
  async function draw() {
    try {
      found ??= await ask("project", {});
      const wanted = search.value.trim().toLowerCase();
      const points = found.tokens.map((token, index) => ({ place: found.places[index], text: shown(token.text), marked: wanted !== "" && token.text.toLowerCase().includes(wanted) }));
      if (dimensions.value === "3") fill(place, scatter(t("embeddings.map"), points));
      else await flat(place, points);
      fill(note, dimensions.value === "3" ? `${t("embeddings.turn")} ` : null, t("embeddings.variance", { n: found.tokens.length, part: percent(found.variance.slice(0, Number(dimensions.value)).reduce((sum, one) => sum + one, 0), 1) }));
    } catch (error) { showError(note, error); }
  }
  search.addEventListener("input", () => draw());
  draw();
  return h("div", h("div.fields", field(t("embeddings.dimensions"), dimensions), field(t("embeddings.mark"), search)), place, note);
}

async function flat(place, points) {
  const Plotly = await plotly(), plot = h("div.chart.tall", { role: "group", "aria-label": t("embeddings.map") });
  fill(place, plot);
  const data = [[false, style("--two"), 4, "circle"], [true, style("--one"), 9, "diamond"]].map(([marked, color, size, symbol]) => {
    const chosen = points.filter((point) => point.marked === marked);
    return { type: "scatter", mode: marked ? "markers+text" : "markers", x: chosen.map((point) => point.place[0]), y: chosen.map((point) => point.place[1]), text: chosen.map((point) => point.text), textposition: "top center", hoverinfo: "text", marker: { size, color, symbol, opacity: marked ? 1 : 0.6 }, name: t(marked ? "embeddings.hits" : "embeddings.others") };
  });
  const axis = { color: style("--text"), gridcolor: style("--line"), zeroline: false };
  await Plotly.newPlot(plot, data, { margin: { l: 30, r: 0, t: 0, b: 30 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: style("--text") }, showlegend: points.some((point) => point.marked), xaxis: axis, yaxis: axis }, { responsive: true });
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
