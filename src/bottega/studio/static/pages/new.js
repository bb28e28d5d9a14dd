// A new run: data, model, method, then every key, with what it will take. Nothing starts before the last button.

import { ask, get, path as at, post } from "../api.js";
import { go, showError } from "../app.js";
import { debounced, field, fill, h, select } from "../dom.js";
import { bytes, duration, loadPart, named, number, t } from "../i18n.js";
import { copyable, progressOf, tabs } from "../parts.js";
import { said } from "../said.js";

export async function page(place, parts, query, context) {
  await loadPart("recipe");
  const [data, models, methods] = await Promise.all(["data", "models", "recipes/methods"].map((path) => get(path, { signal: context.signal })));
  if (!data.length) return fill(place, h("h1", t("nav.new")), h("p", t("new.no-data")), h("p.row", h("a.button.primary", { href: "#/data" }, t("home.add-data"))));
  const draft = new Draft(context);
  const like = query.get("like");
  if (like) return again(place, draft, like, context);
  const chosen = { data: query.get("data") ?? data[0].name, version: Number(query.get("v")) || null, model: query.get("model") ?? models[0]?.name ?? "",
    method: query.get("method") ?? "", validation: 0.1, name: "" };
  const cards = h("fieldset.plain"), form = h("div");
  const suggest = async () => {
    const suggestion = await get(at`recipes/suggestion/${chosen.data}`, { signal: context.signal });
    const fits = (method) => method.objective === suggestion.objective;
    if (!methods.some((method) => method.id === chosen.method)) chosen.method = methods.find(fits)?.id ?? methods[0].id;
    fill(cards, h("legend", h("h2", t("new.method"))), suggestion.why ? h("p.notice", said(suggestion.why), " ", said(suggestion.fix), " ", h("a", { href: `#/data/${chosen.data}/columns` }, t("data.tab-columns"))) : null,
      h("div.cards", [...methods].sort((a, b) => fits(b) - fits(a)).map((method) => methodCard(method, fits(method)))));
  };
  const methodCard = (method, fits) => h("label.card", h("h3", h("input", { type: "radio", name: "method", value: method.id, checked: method.id === chosen.method,
    onchange: () => { chosen.method = method.id; remake(); } }), " ", t(`method.${method.id}`), fits ? h("span.badge.done", t("new.fits")) : null),
    h("p", t(`method.${method.id}.what`)));
  const remake = debounced(150, async () => {
    try {
      if (!chosen.model) return;
      await draft.make(chosen);
      form.querySelector(".error")?.remove();
      if (!form.contains(draft.element)) fill(form, draft.element);
    } catch (error) { showError(form, error); }
  });
  const dataSelect = select(data.map((set) => [set.name, `${set.name} (${t("data.rows", { n: set.rows })})`]), chosen.data,
    async (value) => { chosen.data = value; chosen.version = null; chosen.method = ""; await suggest(); remake(); });
  const others = data.filter((set) => set.name !== chosen.data);
  const validation = select([["0.1", t("new.held-out")], ...others.map((set) => [set.name, set.name])], "0.1",
    (value) => { chosen.validation = value === "0.1" ? 0.1 : value; remake(); });
  const model = h("input", { value: chosen.model, list: "models", autocomplete: "off", oninput: () => { chosen.model = model.value.trim(); remake(); } });
  const name = h("input", { placeholder: "run", pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", autocomplete: "off", oninput: () => { chosen.name = name.value.trim(); remake(); } });
  fill(place, h("h1", t("nav.new")),
    h("div.fields", field(t("new.data"), dataSelect, t("new.data-help")), field(t("new.validation"), validation, t("new.validation-help")),
      field(t("new.base"), model, t("new.base-help")), field(t("new.name"), name)),
    h("datalist", { id: "models" }, models.map((one) => h("option", { value: one.name }))),
    cards, form);
  await suggest();
  remake();
}

/** Another run with the recipe of one: all of it is in the form, and nothing is chosen above it. */
async function again(place, draft, like, context) {
  const { document } = await get(at`runs/${like}/recipe`, { signal: context.signal });
  draft.hidden = ["recipe"];
  draft.level = "all";
  fill(place, h("h1", t("nav.new")), h("p", t("new.like", { name: like })), draft.element);
  await draft.set(document);
}

/** The recipe that is being written, and everything that shows it. */
class Draft {
  constructor(context) {
    this.context = context;
    this.document = null;
    this.checked = null;
    this.changes = {};
    this.message = h("div", { "aria-live": "polite" });
    this.plan = h("section", { "aria-label": t("new.plan"), "aria-live": "polite" });
    this.start = h("button.primary", { onclick: () => this.begin() }, t("new.start"));
    this.body = h("div");
    this.element = h("div", h("h2", t("new.settings")), this.body, this.message, this.plan, h("p.row", this.start));
    this.trial = new Trial(context);
    this.planSoon = debounced(600, () => this.showPlan());
    this.checkSoon = debounced(300, (text) => this.verify({ text }));
    this.level = "basic";
    this.hidden = HIDDEN;
  }

  /** A recipe from the first choices, with the changes made so far. */
  async make(chosen) {
    const body = { data: chosen.data, version: chosen.version, validation: chosen.validation, model: chosen.model, method: chosen.method, name: chosen.name || chosen.method, changes: this.changes };
    const turn = this.ask();
    try {
      const made = await post("recipes/make", body, { signal: this.context.signal });
      if (turn !== this.turn) return;
      this.accept(made);
    } catch (error) {
      if (turn !== this.turn) return;
      // A change that another method does not know is dropped.
      if (!Object.keys(this.changes).length) throw error;
      this.changes = {};
      await this.make(chosen);
      return;
    }
    await this.draw();
  }

  async set(document) {
    this.accept(await post("recipes/check", { document }, { signal: this.context.signal }));
    await this.draw();
  }

  accept(checked) {
    this.checked = checked;
    this.document = checked.document;
    this.written = null;
    this.start.disabled = false;
    fill(this.message);
    this.planSoon();
  }

  async draw() {
    const objective = this.document.objective.kind;
    const adapter = this.document.adapter ? (this.document.adapter.kind ?? "lora") : null;
    const key = `${objective} ${adapter}`;
    if (this.schemaOf !== key) {
      this.schema = await get(`${at`recipes/fields/${objective}`}${adapter ? `?adapter=${adapter}` : ""}`, { signal: this.context.signal });
      this.schemaOf = key;
    }
    fill(this.body, tabs(t("new.settings"), [
      ["basic", t("new.basic"), () => { this.level = "basic"; return this.fields(BASIC); }],
      ["all", t("new.all"), () => { this.level = "all"; return this.fields(null); }],
      ["yaml", "YAML", () => { this.level = "yaml"; return this.yaml(); }],
      ["command", t("new.command"), () => { this.level = "command"; return this.commands(); }],
    ], this.level));
  }

  fields(wanted) {
    const shown = this.schema.filter((one) => !this.hidden.includes(one.key) && (!wanted || wanted.includes(one.key)));
    if (wanted) return h("div.fields", shown.map((one) => this.control(one)));
    const sections = Map.groupBy ? Map.groupBy(shown, section) : new Map([...new Set(shown.map(section))].map((name) => [name, shown.filter((one) => section(one) === name)]));
    return h("div", [...sections].map(([name, fields]) => h("section", name ? h("h3", name) : null, h("div.fields", fields.map((one) => this.control(one))))));
  }

  control(one) {
    const value = lookUp(this.document, one.key) ?? null;
    const set = (next) => this.change(one.key, next);
    const label = one.key.split(".").at(-1);
    const help = named(`recipe.${one.key}`, one.description);
    let control;
    if (one.type === "choice") control = select([["", t("new.default", { value: String(one.default ?? "") })], ...one.choices.map((name) => [name, name])], value === null ? "" : String(value), (next) => set(next || null));
    else if (one.type === "boolean") control = select([["", t("new.default", { value: t(one.default ? "yes" : "no") })], ["true", t("yes")], ["false", t("no")]], value === null ? "" : String(value), (next) => set(next === "" ? null : next === "true"));
    else {
      const numeric = one.type === "integer" || one.type === "number";
      const text = value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
      const later = debounced(400, () => set(parsed(control.value, one.type)));
      control = h("input", { type: numeric ? "number" : "text", step: one.type === "integer" ? "1" : "any", value: text, autocomplete: "off",
        placeholder: one.default === null || one.default === undefined ? "" : typeof one.default === "object" ? JSON.stringify(one.default) : String(one.default),
        oninput: () => { this.ask(); later(); } });
      if (one.minimum !== undefined) control.min = one.minimum;
      if (one.maximum !== undefined) control.max = one.maximum;
    }
    return field(label, control, help);
  }

  change(key, value) {
    this.changes[key] = value;
    // At once, so that a second change does not begin from a recipe without the first.
    this.document = structuredClone(this.document);
    put(this.document, key, value);
    return this.verify({ document: this.document });
  }

  /** Something changes: what is there cannot be started until it is checked. The number of this question. */
  ask() {
    this.start.disabled = true;
    this.turn = (this.turn ?? 0) + 1;
    return this.turn;
  }

  /** Check what was written; of several answers under way, the last question's counts. */
  async verify(draft) {
    const turn = this.ask();
    try {
      const checked = await post("recipes/check", draft, { signal: this.context.signal });
      if (turn !== this.turn) return;
      this.accept(checked);
      this.written = draft.text ?? null;
    } catch (error) {
      if (turn === this.turn) showError(this.message, error);
    }
  }

  yaml() {
    const area = h("textarea", { rows: 24, spellcheck: false, value: this.written ?? this.checked.text, "aria-label": t("new.yaml-label"), oninput: () => { this.ask(); this.checkSoon(area.value); } });
    return area;
  }

  commands() {
    const { command, python } = this.checked;
    return h("div", h("h3", t("new.as-command")), h("pre", command), copyable(command, t("action.copy")),
      python ? [h("h3", t("new.as-openai")), h("pre", python), copyable(python, t("action.copy"))] : null);
  }

  async showPlan() {
    const document = this.document, time = h("div");
    fill(this.plan, h("h2", t("new.plan")), h("progress", { "aria-label": t("new.planning") }));
    try {
      const plan = await post("recipes/plan", { document }, { signal: this.context.signal });
      if (document !== this.document) return;
      fill(this.plan, h("h2", t("new.plan")), planBars(plan), time);
      if (plan.fits) await this.trial.show(time, document, plan);
    } catch (error) {
      if (document === this.document) { fill(this.plan, h("h2", t("new.plan"))); showError(this.plan, error); }
    }
  }

  async begin() {
    this.start.disabled = true;
    this.trial.stop();
    try {
      const { run } = await post("runs", this.written ? { text: this.written } : { recipe: this.document });
      go(`runs/${run}`);
    } catch (error) {
      this.start.disabled = false;
      showError(this.message, error);
    }
  }
}

/** The time of a run, from a few updates that are tried in a task of their own. */
class Trial {
  constructor(context) {
    Object.assign(this, { context, key: "", task: null, found: null, starting: null });
    context.signal.addEventListener("abort", () => this.stop());
    context.listen(window, "pagehide", () => this.stop());
  }

  /** Show what is known of the time, and find it out where nothing is. */
  async show(place, document, plan) {
    const key = JSON.stringify(document, (name, value) => (LENGTH_KEYS.includes(name) ? undefined : value));
    if (key !== this.key) this.begin(key, document);
    try {
      await this.starting;
      while (this.key === key && this.task && place.isConnected) await this.look(place, this.task);
    } catch (error) {
      if (error.name !== "AbortError" && place.isConnected) showError(place, error);
      return;
    }
    if (this.key !== key || !place.isConnected) return;
    // As long as more of the same is computed, it takes in proportion longer.
    fill(place, this.found?.seconds ? timeFacts(this.found.seconds * (plan.computed / this.found.computed), plan.updates) : h("p.dim", t("new.time-unknown")));
  }

  begin(key, document) {
    this.stop();
    Object.assign(this, { key, found: null });
    this.starting = post("recipes/measure", { document }).then(({ task }) => {
      if (this.key === key) this.task = task;
      else end(task);
    });
  }

  /** How far a task is; of one that has ended, what it found. */
  async look(place, id) {
    const task = await get(at`tasks/${id}`, { signal: this.context.signal });
    if (["running", "waiting"].includes(task.status)) {
      fill(place, task.status === "waiting" ? h("p.dim", t("new.time-waits")) : h("div", h("p.dim", t("new.time-trial")), progressOf(task)));
      await new Promise((resolve) => setTimeout(resolve, 500));
    } else if (this.task === id) {
      Object.assign(this, { found: task.status === "done" ? task.result : null, task: null });
      ask(at`tasks/${id}`, { method: "DELETE" }).catch(() => null);
    }
  }

  /** Try no longer: something else is wanted now. */
  stop() {
    if (this.task) end(this.task);
    Object.assign(this, { key: "", task: null });
  }
}

/** End a task, also while the page is being left. */
const end = (task) => ask(at`tasks/${task}/stop`, { method: "POST", body: {}, keepalive: true }).catch(() => null);

// Keys that decide how long a run is, or how it goes on, not what an update takes.
const LENGTH_KEYS = ["name", "seed", "evaluate", "save", "lr", "epochs", "steps", "schedule", "warmup", "floor", "clip", "weight_decay", "stop_after"];

// What a first run is about.
const BASIC = ["optim.lr", "optim.epochs", "optim.examples", "adapter.rank", "data.max_length", "optim.schedule", "evaluate.stop_after", "seed"];

// Chosen above the fields.
const HIDDEN = ["recipe", "name", "data.train", "data.validation", "model.base"];

const section = ({ key }) => (key.includes(".") ? key.split(".")[0] : "");

const lookUp = (document, key) => key.split(".").reduce((value, part) => value?.[part], document);

/** Put a value in a document; null takes the key out, so that its default holds. */
function put(document, key, value) {
  const parts = key.split("."), last = parts.pop();
  let place = document;
  for (const part of parts) place = place[part] ??= {};
  if (value === null) delete place[last];
  else place[last] = value;
  // Two ways to say the same, of which a recipe takes one.
  const other = { "optim.epochs": "steps", "optim.steps": "epochs", "optim.examples": "update_tokens", "optim.update_tokens": "examples" }[key];
  if (other && value !== null) delete document.optim[other];
}

function parsed(text, type) {
  if (text.trim() === "") return null;
  if (type === "integer" || type === "number") return Number(text);
  if (/^[[{]/.test(text.trim())) { try { return JSON.parse(text); } catch { return text; } }
  return text;
}

const timeFacts = (seconds, updates) => h("div", h("h3", t("new.time", { time: duration(seconds) })),
  h("p.dim", t("new.time-each", { time: duration(seconds / updates) })));

function planBars(plan) {
  const share = Math.min(100, (100 * plan.memory) / plan.limit);
  return h("div",
    h("h3", t("new.memory", { memory: bytes(plan.memory), limit: bytes(plan.limit) })),
    h(`div.bar${plan.memory > plan.limit ? ".over" : ""}`, h("i", { style: { width: `${share}%` } })),
    h("p", plan.fits ? t("new.fits-memory") : t("new.too-large")),
    h("dl.facts", [["new.updates", number(plan.updates)], ["new.tokens", number(plan.tokens)], ["new.disk", bytes(plan.disk)]].map(([key, value]) => h("div", h("dt", t(key)), h("dd", value)))),
    plan.advice.length ? h("ul", plan.advice.map((one) => h("li", h("code", one.change), " ", bytes(one.memory)))) : null);
}
