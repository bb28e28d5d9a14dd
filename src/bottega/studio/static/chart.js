// Charts, drawn by Plotly out of its installed package; it is loaded by the pages that need it only.

import { h } from "./dom.js";
import { current, t } from "./i18n.js";

let loading = null;

/** Plotly, loaded once, in the language in use. */
export async function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = h("script", { src: "plotly.js", onload: () => resolve(window.Plotly), onerror: () => reject(new Error(t("chart.missing"))) });
    document.head.append(script);
  });
  const Plotly = await loading;
  // It knows English itself, and all that is not said here from that.
  if (current() !== "en") Plotly.register(words());
  // Without the button that sends a chart to a server of its makers.
  Plotly.setPlotConfig({ locale: current(), displaylogo: false, showSendToCloud: false, plotlyServerURL: "" });
  return Plotly;
}

/** The words of its buttons, and numbers as the reader writes them. */
function words() {
  const signs = Object.fromEntries(new Intl.NumberFormat(current()).formatToParts(10000.5).map(({ type, value }) => [type, value]));
  const dictionary = {
    "Download plot as a PNG": t("chart.download"), Zoom: t("chart.zoom"), Pan: t("chart.pan"), "Zoom in": t("chart.zoom-in"), "Zoom out": t("chart.zoom-out"),
    Autoscale: t("chart.autoscale"), "Reset axes": t("chart.reset"), "Orbital rotation": t("chart.orbit"), "Turntable rotation": t("chart.turntable"),
    "Reset camera to default": t("chart.camera"), "Reset camera to last save": t("chart.camera-last"), "Box Select": t("chart.box"),
    "Lasso Select": t("chart.lasso"), "Double-click to zoom back out": t("chart.zoom-back"),
  };
  return { moduleType: "locale", name: current(), dictionary, format: { decimal: signs.decimal, thousands: signs.group ?? "" } };
}

export const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Colours and dashes of the curves: never a colour alone. */
const CURVES = [["--one", "solid"], ["--two", "dash"], ["--three", "dot"], ["--four", "dashdot"]];

// Points of a curve that are drawn: more than a screen has columns.
const MOST_POINTS = 4000;

/** A curve with fewer points: of every stretch the lowest and the highest, so that no spike is lost. */
export function thin(x, y, most = MOST_POINTS) {
  if (x.length <= most) return [x, y];
  const stretch = x.length / (most / 2), thinX = [], thinY = [];
  for (let part = 0; part < most / 2; part += 1) {
    const start = Math.floor(part * stretch), stop = Math.floor((part + 1) * stretch);
    let low = start, high = start;
    for (let index = start + 1; index < stop; index += 1) {
      if (y[index] < y[low]) low = index;
      if (y[index] > y[high]) high = index;
    }
    for (const index of low < high ? [low, high] : low > high ? [high, low] : [low]) { thinX.push(x[index]); thinY.push(y[index]); }
  }
  return [thinX, thinY];
}

/**
 * A chart of curves, which is redrawn by `update`.
 * @param {string} title
 * @param {{x: string, y?: string, log?: boolean}} axes
 */
export function lineChart(title, axes) {
  const plot = h("div.chart", { role: "group", "aria-label": title });
  const element = h("figure", plot);
  let drawn = false;
  return {
    element,
    /**
     * @param {{name: string, x: number[], y: number[], index?: number, mode?: string}[]} curves
     * @param {{x: number, text: string}[]} [marks]  upright lines with a word
     */
    async update(curves, marks = []) {
      const Plotly = await plotly();
      const data = curves.map((curve, number) => {
        const [x, y] = thin(curve.x, curve.y), [color, dash] = CURVES[(curve.index ?? number) % CURVES.length];
        return { x, y, name: curve.name, type: "scatter", mode: curve.mode ?? (x.length === 1 ? "markers" : "lines"),
          line: { color: style(color), dash, width: 2 }, opacity: curve.faint ? 0.35 : 1, hovertemplate: "%{x}: %{y:.4g}" };
      });
      const text = style("--text"), line = style("--line");
      const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, color: text };
      const layout = {
        title: { text: title, font: { size: 15, color: text }, x: 0, xanchor: "left" }, margin: { l: 52, r: 12, t: 36, b: 40 },
        paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: text, family: "system-ui, sans-serif", size: 12 },
        xaxis: { ...axis, title: { text: axes.x } }, yaxis: { ...axis, title: { text: axes.y ?? "" }, type: axes.log ? "log" : "linear", exponentformat: "none", separatethousands: true },
        showlegend: curves.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 1, xanchor: "right" }, hovermode: "x unified", uirevision: "keep",
        shapes: marks.map((mark) => ({ type: "line", x0: mark.x, x1: mark.x, yref: "paper", y0: 0, y1: 1, line: { color: text, width: 1, dash: "dot" } })),
        annotations: marks.map((mark, place) => ({ x: mark.x, yref: "paper", y: 1 - 0.09 * place, text: mark.text, showarrow: false, xanchor: "right", yanchor: "top", font: { color: text, size: 11 } })),
      };
      const config = { responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
      await Plotly[drawn ? "react" : "newPlot"](plot, data, layout, config);
      // The place of a chart changes when others come beside it, not only with the window.
      if (!drawn) new ResizeObserver(() => plot.offsetParent && Plotly.Plots.resize(plot)).observe(element);
      drawn = true;
    },
  };
}
