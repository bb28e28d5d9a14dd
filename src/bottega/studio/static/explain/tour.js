// The guided tour: what to try, ticked off when it was tried.

import { fill, h } from "../dom.js";
import { t } from "../i18n.js";

const STEPS = ["tokens", "head", "hover", "layer", "lens", "temperature", "sample"];
const STORED = "bottega.tour";

/** A list of steps; `beside`: whether there are two models to compare. */
export class Tour {
  constructor(beside) {
    this.steps = beside ? [...STEPS, "beside"] : STEPS;
    this.tried = new Set(stored());
    this.element = h("details.notice", { open: this.tried.size < this.steps.length });
    this.draw();
  }

  done(step) {
    if (this.tried.has(step)) return;
    this.tried.add(step);
    try { localStorage.setItem(STORED, JSON.stringify([...this.tried])); } catch { /* a page opened from a file may have no storage */ }
    this.draw();
  }

  draw() {
    const tried = this.steps.filter((step) => this.tried.has(step)).length;
    fill(this.element, h("summary", t("tour.title", { tried, n: this.steps.length })), h("ol", this.steps.map((step) => h("li",
      h("span", { "aria-hidden": "true" }, this.tried.has(step) ? "✓ " : "○ "), t(`tour.${step}`), this.tried.has(step) ? h("span.dim", ` ${t("tour.done")}`) : null))));
  }
}

function stored() {
  try { return JSON.parse(localStorage.getItem(STORED) ?? "[]"); } catch { return []; }
}
