// Labelling: two answers, a choice by key or button, and what follows from the choices.

import { get, path as at, post } from "../api.js";
import { go, showError } from "../app.js";
import { field, fill, h, select } from "../dom.js";
import { percent, t } from "../i18n.js";
import { modelInput } from "../parts.js";

const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", ArrowUp: "bad", s: "skip" };
const RATER = "bottega.rater";

export async function page(place, [name], query, context) {
  return name ? session(place, name, context) : list(place, context);
}

async function list(place, context) {
  const [sessions, data] = await Promise.all([get("labels", { signal: context.signal }), get("data", { signal: context.signal })]);
  const first = await modelInput(context), second = await modelInput(context, "", false);
  const prompts = select(data.map((set) => [set.name, set.name]), data.find((set) => Object.keys(set.fields).some((key) => ["prompt", "instruction", "question"].includes(key)))?.name ?? data[0]?.name);
  const title = h("input", { required: true, pattern: "[A-Za-z0-9][A-Za-z0-9_\\-]*", maxLength: 60, value: `labels-${sessions.length + 1}`, autocomplete: "off" });
  const count = h("input", { type: "number", min: 1, max: 1000, value: 20 }), temperature = h("input", { type: "number", min: 0, max: 3, step: 0.1, value: 0.8 });
  const errors = h("div");
  const start = async (event) => {
    event.preventDefault();
    try {
      const models = [first.value.trim(), second.value.trim()].filter(Boolean);
      const { task } = await post("labels", { name: title.value, models, data: prompts.value, count: Number(count.value), temperature: Number(temperature.value) }, { signal: context.signal });
      go(`task/${task}?then=go`);
    } catch (error) { showError(errors, error); }
  };
  fill(place, h("h1", t("nav.label")), h("p", t("label.what")), h("h2", t("label.sessions")),
    sessions.length ? h("ul.cards", sessions.map((one) => h("li", h("a.card", { href: `#/label/${one.name}` }, h("h3", one.name), h("div", t("label.chosen", { n: one.choices, pairs: one.pairs })), h("div.dim", one.models.join(" / ")))))) : h("p.dim", t("label.none")),
    h("h2", t("label.new")), data.length ? h("form", { onsubmit: start }, h("div.fields", field(t("label.name"), title), field(t("label.prompts"), prompts), field(t("label.first"), first), field(t("label.second"), second, t("label.second-help")), field(t("label.count"), count), field(t("label.temperature"), temperature)),
      h("button.primary", { type: "submit" }, t("label.start")), errors) : h("p", t("label.needs")));
}

async function session(place, name, context) {
  const rater = h("input", { value: localStorage.getItem(RATER) ?? "me", maxLength: 60, required: true, onchange: () => { localStorage.setItem(RATER, rater.value || "me"); load(); } });
  const pairPlace = h("div"), found = h("div"), errors = h("div");
  let pair = null, sending = false, edited = null;

  async function load() {
    show(await get(`${at`labels/${name}`}?rater=${encodeURIComponent(rater.value)}`, { signal: context.signal }));
  }

  async function say(said) {
    if (!pair || sending) return;
    sending = true;
    try {
      const text = edited && (said === "left" || said === "right") ? edited[said].value : null;
      const original = said === "left" || said === "right" ? pair[said] : null;
      show(await post(at`labels/${name}/choices`, { pair: pair.pair, rater: rater.value, said, swapped: pair.swapped, edited: text !== null && text !== original ? text : null }, { signal: context.signal }));
    } catch (error) { showError(errors, error); } finally { sending = false; }
  }

  async function undo() {
    if (sending) return;
    sending = true;
    try { show(await post(at`labels/${name}/undo`, { rater: rater.value }, { signal: context.signal })); } catch (error) { showError(errors, error); } finally { sending = false; }
  }

  function edit() {
    if (!pair) return;
    edited = { left: h("textarea", { rows: 6, value: pair.left }), right: h("textarea", { rows: 6, value: pair.right }) };
    drawPair();
    edited.left.focus();
  }

  function show({ next, summary }) {
    pair = next;
    edited = null;
    fill(errors);
    drawPair();
    fill(found, h("h2", t("label.found")), h("p", t("label.counts", { first: summary.models[0], second: summary.models[1], a: summary.counts.first, b: summary.counts.second, ties: summary.counts.tie, bad: summary.counts.bad })),
      summary.models[0] === summary.models[1] ? null : rate("label.win-rate", summary.win_rate, { name: summary.models[1] }), rate("label.position", summary.left), rate("label.agreement", summary.agreement),
      h("div.row", ["write", "dpo", "reward"].map((action) => h("button", { type: "button", disabled: !summary.win_rate, onclick: () => finish(action) }, t(`label.${action}`)))));
  }

  const rate = (key, one, values = {}) => (one ? h("p", t(key, { ...values, part: percent(one.value), low: percent(one.low), high: percent(one.high), n: one.count })) : null);

  function drawPair() {
    if (!pair) return fill(pairPlace, h("p.notice.good", { role: "status" }, t("label.all-done")));
    const side = (which) => h("article.card", h("h3", t(`label.${which}`)), edited ? field(t(`label.edit-${which}`), edited[which]) : h("div.answer", { dir: "auto" }, pair[which]));
    const button = (said) => h("button", { type: "button", onclick: () => say(said) }, t(`label.${said}`));
    return fill(pairPlace, h("progress", { max: pair.total, value: pair.done, "aria-label": t("label.progress", { done: pair.done, total: pair.total }) }), h("p.dim", { role: "status" }, t("label.progress", { done: pair.done, total: pair.total })),
      h("article.card.you", h("div", { dir: "auto" }, pair.prompt)), h("div.sides", side("left"), side("right")),
      h("div.row", button("left"), button("tie"), button("bad"), button("right"), button("skip"), h("button", { type: "button", onclick: undo }, t("label.undo")), h("button", { type: "button", onclick: edit }, t("label.edit"))), h("p.dim", t("label.keys")));
  }

  async function finish(action) {
    try {
      const made = await post(at`labels/${name}/data`, {}, { signal: context.signal });
      if (action === "write") fill(errors, h("p.notice.good", t("label.written", { n: made.rows, name: made.name })));
      else go(`new?data=${made.name}&method=${action}`);
    } catch (error) { showError(errors, error); }
  }

  // Not while something is written, nor with a key held down that belongs to the browser.
  context.listen(document, "keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.matches("input, textarea, select")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = KEYS[key] ? () => say(KEYS[key]) : key === "u" ? undo : key === "e" ? edit : null;
    if (action) { event.preventDefault(); action(); }
  });
  fill(place, h("h1", name), field(t("label.rater"), rater), errors, pairPlace, found);
  await load();
}
