// Runs: all of them, one of them live, several overlaid, and the verdict.

import { get, news, path as at, post } from "../api.js";
import { go, showError } from "../app.js";
import { lineChart } from "../chart.js";
import { field, fill, h, table } from "../dom.js";
import { bytes, duration, moment, named, number, percent, t } from "../i18n.js";
import { badge, confirmed, copyable, failureBox, progressOf, tabs } from "../parts.js";
import { said } from "../said.js";

// Milliseconds between looks at a run.
const EVERY = 1000;

// Looks of which one is taken at a run that has ended.
const EACH_ENDED = 4;

export async function page(place, [run, view], query, context) {
  if (!run) return list(place, context);
  return one(place, run, view, query, context);
}

async function list(place, context) {
  const chosen = new Set();
  const overlay = h("a.button", { href: "#/runs" }, t("run.overlay"));
  const runs = await get("runs", { signal: context.signal });
  const tick = (run) => h("input", { type: "checkbox", "aria-label": t("run.choose", { name: run.id }), onchange(event) {
    chosen[event.target.checked ? "add" : "delete"](run.id);
    const [first, ...others] = chosen;
    overlay.href = first ? `#/runs/${first}?with=${others.join(",")}` : "#/runs";
  } });
  fill(place, h("h1", t("nav.runs")), runs.length ? [h("p", overlay), table(
    ["", t("run.name"), t("run.status"), t("run.step"), t("run.loss"), t("run.validation-loss"), t("run.verdict"), t("run.time")],
    runs.map((run) => [tick(run), h("a", { href: `#/runs/${run.id}` }, run.id), badge(run.status), run.steps ? `${number(run.step)} / ${number(run.steps)}` : "",
      number(run.loss), number(run.validation_loss), run.verdict ? h("span", { lang: "en" }, run.verdict) : "", moment(run.time)]), { caption: t("nav.runs"), numeric: [3, 4, 5] })]
    : h("p", h("span.dim", t("home.no-runs")), " ", h("a", { href: "#/new" }, t("nav.new"))));
}

/** The events of a run, gathered page by page; a resume takes some back, and all are read again. */
export class RunLog {
  constructor(id) { Object.assign(this, { id, events: [], next: 0, generation: 0, state: null, started: null }); }

  async read(signal) {
    for (let more = true; more;) {
      const answer = await news(`${at`runs/${this.id}`}?since=${this.next}${this.next ? `&generation=${this.generation}` : ""}`, EVERY, { signal });
      if (answer.since < this.next) this.events = [];
      for (const event of answer.events) this.events.push(event);
      this.next = answer.next;
      this.generation = answer.generation;
      this.state = answer;
      more = answer.more;
    }
    this.started = this.events.find((event) => event.type === "started");
    return this.state;
  }

  of(type) { return this.events.filter((event) => event.type === type); }

  curve(type, value) {
    const points = this.of(type).filter((event) => value(event) !== null && value(event) !== undefined);
    return { x: points.map((event) => event.step), y: points.map(value) };
  }
}

async function one(place, id, view, query, context) {
  const others = (query.get("with") ?? "").split(",").filter(Boolean).map((name) => new RunLog(name));
  const log = new RunLog(id), head = h("div"), body = h("div");
  fill(place, head, body);
  await log.read(context.signal);
  const live = watch(log, others, context);
  fill(body, tabs(t("run.views"), [
    ["live", t("run.tab-live"), () => live.element],
    ["verdict", t("run.verdict"), () => verdictView(log, context)],
    ["samples", t("run.tab-samples"), () => samplesView(log)],
    ["events", t("run.tab-events"), () => eventsView(log)],
    ["recipe", t("run.tab-recipe"), () => recipeView(id, context)],
  ], view ?? "live"));
  let before = "", turn = 0;
  await context.every(EVERY, async () => {
    // What has ended changes only if somebody goes on with it.
    const moving = log.state.tasks.some((one) => ["running", "waiting"].includes(one.status)) || log.state.status === "running";
    if (before && !moving && (turn += 1) % EACH_ENDED) return;
    await log.read(context.signal);
    for (const other of others) await other.read(context.signal);
    const now = JSON.stringify([log.next, log.state.status, log.state.tasks, others.map((other) => other.next)]);
    if (now === before) return;
    before = now;
    drawHead(head, log);
    await live.draw();
  });
}

function drawHead(place, { id, state }) {
  const task = state.tasks.find((one) => ["running", "waiting"].includes(one.status));
  const failed = state.status === "failed" ? state.tasks.find((one) => one.failure && !one.failure.stopped) : null;
  const send = (action) => async (event) => {
    event.target.disabled = true;
    try { await post(at`runs/${id}/` + action); } catch (error) { showError(place, error); event.target.disabled = false; }
  };
  const running = state.status === "running" || (task && task.verb === "train");
  fill(place,
    h("div.row.ends", h("h1", id, " ", badge(task?.status === "waiting" ? "waiting" : state.status)), h("div.row",
      running ? h("button", { onclick: send("stop"), title: t("run.pause-help") }, t("run.pause")) : null,
      !running && state.status !== "finished" ? h("button.primary", { onclick: send("resume") }, t("run.resume")) : null,
      !running ? confirmed(t("action.delete"), t("run.delete-sure", { name: id }), async () => { await get(at`runs/${id}`, { method: "DELETE" }); go("runs"); }) : null)),
    task ? progressOf(task) : null,
    failed ? failureBox(failed) : null,
    null);
}

/** The curves and the numbers of a run, kept up to date. */
function watch(log, others, context) {
  const facts = h("dl.facts"), charts = h("div.charts"), drawn = new Map();
  const smooth = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0.6, oninput: () => draw() });
  const element = h("div", facts, h("div.row", field(t("run.smooth"), smooth)), charts);
  async function draw() {
    const runs = [log, ...others];
    drawFacts(facts, log);
    for (const [key, title, curves] of curvesOf(runs, Number(smooth.value))) {
      if (!curves.some((curve) => curve.x.length)) continue;
      if (!drawn.has(key)) { drawn.set(key, lineChart(title, { x: t("run.step") })); charts.append(drawn.get(key).element); }
      await drawn.get(key).update(curves.filter((curve) => curve.x.length), key === "loss" ? marksOf(log) : []);
    }
  }
  return { element, draw };
}

function* curvesOf(runs, smoothing) {
  const curveName = (run, text) => (runs.length > 1 ? `${run.id}: ${text}` : text);
  yield ["loss", t("run.loss"), runs.flatMap((run, index) => {
    const curve = run.curve("stepped", (event) => event.loss);
    return [{ ...curve, name: curveName(run, t("run.training")), index: 2 * index, faint: smoothing > 0 },
      ...(smoothing > 0 ? [{ x: curve.x, y: smoothed(curve.y, smoothing), name: curveName(run, t("run.training-smooth")), index: 2 * index }] : []),
      { ...run.curve("validated", (event) => event.loss), name: curveName(run, t("run.validation-short")), index: 2 * index + 1, mode: "lines+markers" }];
  })];
  const metrics = new Set(runs.flatMap((run) => [...run.of("validated"), ...run.of("stepped").slice(-1)].flatMap((event) => Object.keys(event.metrics))));
  for (const metric of metrics) {
    yield [`metric-${metric}`, named(`metric.${metric}`, metric), runs.flatMap((run, index) => [
      { ...run.curve("stepped", (event) => event.metrics[metric]), name: curveName(run, t("run.training")), index: 2 * index },
      { ...run.curve("validated", (event) => event.metrics[metric]), name: curveName(run, t("run.validation-short")), index: 2 * index + 1, mode: "lines+markers" }])];
  }
  const per = [["lr", "run.lr", (event) => event.lr], ["speed", "run.speed", (event) => event.tokens_real / event.seconds],
    ["memory", "run.memory", (event) => event.memory / 1e9], ["cpu", "run.cpu", (event) => event.cpu],
    ["norm", "run.norm", (event) => event.grad_norm], ["gpu", "run.gpu", (event) => event.device_use]];
  for (const [key, title, value] of per) {
    yield [key, t(title), runs.map((run, index) => ({ ...run.curve("stepped", value), name: curveName(run, t(title)), index: 2 * index }))];
  }
}

/** What to mark in a chart of losses: the best validation, and where a run ended before its last update. */
function marksOf(log) {
  const best = log.of("validated").filter((event) => event.best).at(-1), finished = log.of("finished").at(-1);
  const early = finished && log.started && finished.step < log.started.steps;
  return [best ? { x: best.step, text: t("run.best-mark") } : null, early ? { x: finished.step, text: t("run.stopped-early") } : null].filter(Boolean);
}

/** An exponential moving average, started without a bias. */
function smoothed(values, weight) {
  let sum = 0, norm = 0;
  return values.map((value) => { sum = weight * sum + (1 - weight) * value; norm = weight * norm + 1 - weight; return sum / norm; });
}

function drawFacts(place, log) {
  const steps = log.of("stepped"), last = steps.at(-1), started = log.started, finished = log.of("finished").at(-1);
  const recent = steps.slice(-20), seconds = recent.reduce((sum, event) => sum + event.seconds, 0);
  const left = started && last ? (started.steps - last.step) * (seconds / recent.length) : null;
  const best = log.of("validated").filter((event) => event.best).at(-1);
  const facts = [
    ["run.step", last && started ? `${number(last.step)} / ${number(started.steps)}` : "–"],
    ["run.left", log.state.status === "running" ? duration(left) : "–"],
    ["run.loss", number(last?.loss)], ["run.best", best ? t("run.best-at", { loss: number(best.loss), step: best.step }) : "–"],
    ["run.speed", recent.length ? `${number(Math.round(recent.reduce((sum, event) => sum + event.tokens_real, 0) / seconds))}` : "–"],
    ["run.memory-peak", bytes(steps.reduce((most, event) => Math.max(most, event.memory), 0) || null)],
    ["run.cpu", number(last?.cpu)], ["run.trained", started ? t("run.of", { part: number(started.trained_parameters), whole: number(started.parameters) }) : "–"],
    ["run.device", started ? `${started.device}, ${started.dtype}` : "–"],
  ];
  if (finished) facts.push(["run.reason", said(finished.reason)]);
  fill(place, facts.map(([key, value]) => h("div", h("dt", t(key)), h("dd", value))));
}

// Samples, events, recipe

function samplesView(log) {
  const answers = log.of("answered");
  if (!answers.length) return h("p.dim", t("run.no-samples"));
  return h("div", answers.slice(-60).reverse().map((event) => h("article.card", h("h3", t("run.at-step", { step: event.step })), h("p.clip", { dir: "auto" }, event.prompt),
    table([t("run.answer"), t("run.reward")], event.answers.map((answer, index) => [h("div", { dir: "auto" }, answer), number(event.rewards[index])]), { numeric: [1] }))));
}

function eventsView(log) {
  const shown = log.events.filter((event) => event.type !== "stepped" && event.type !== "answered").reverse();
  const text = (event) => (event.message ?? event.reason ? said(event.message ?? event.reason) : event.type === "validated" ? `${number(event.loss)}${event.best ? ` (${t("run.best")})` : ""}` : event.checkpoint ?? "");
  return table([t("run.step"), t("run.event"), "", t("run.time")], shown.map((event) => [number(event.step), t(`event.${event.type}`), text(event), moment(event.time)]), { caption: t("run.tab-events"), numeric: [0] });
}

function recipeView(id, context) {
  const place = h("div");
  get(at`runs/${id}/recipe`, { signal: context.signal }).then(({ text }) => fill(place, h("p", copyable(text, t("action.copy")), " ", h("a.button", { href: `#/new?like=${id}` }, t("run.again"))), h("pre", text)), (error) => showError(place, error));
  return place;
}

// The verdict

function verdictView(log, context) {
  const place = h("div");
  const ask = h("div");
  fill(place, ask);
  drawVerdict(place, log, context).catch((error) => showError(place, error));
  return place;
}

const FORMATS = ["merged", "gguf", "onnx"];

async function drawVerdict(place, log, context) {
  const { id, state } = log;
  const evaluate = h("button.primary", { disabled: state.status !== "finished", onclick: async () => {
    const { task } = await post(at`runs/${id}/evaluate`, { options: {} });
    go(`task/${task}?then=go`);
  } }, t(state.has_report ? "verdict.again" : "verdict.start"));
  if (!state.has_report) return fill(place, h("p", t("verdict.what")), evaluate, state.status === "finished" ? null : h("p.dim", t("verdict.not-yet")));
  const report = await get(at`runs/${id}/report`, { signal: context.signal });
  const { verdict } = report, outcome = String(verdict.outcome).replace(/\W+/g, "-");
  const estimates = (list) => list.map((one) => [named(`metric.${one.metric}`, one.label), number(one.run), number(one.base), interval(one), one.finding ? t(`finding.${one.finding.replace(" ", "-")}`) : ""]);
  return fill(place,
    h("h2", t(`outcome.${outcome}`)), h(`p.verdict.${outcome}`, { lang: "en" }, verdict.sentence),
    h("p.row", evaluate, h("a.button", { href: `api/runs/${encodeURIComponent(id)}/report.html`, onclick: (event) => { event.preventDefault(); openReport(id); } }, t("verdict.page")),
      FORMATS.map((format) => h("button", { onclick: async () => { const { task } = await post(at`runs/${id}/export`, { format }); go(`task/${task}`); } }, t("verdict.export", { format: named(`export.${format}`, format) })))),
    (report.contenders ?? []).map((one) => h("section", h("h3", t("verdict.beside", { name: one.name })),
      table([t("verdict.metric"), t("verdict.run"), t("verdict.other"), t("verdict.difference"), t("verdict.finding")], estimates(one.estimates), { numeric: [1, 2, 3] }))),
    report.effects?.length ? h("section", h("h3", t("verdict.effects")), table([t("verdict.metric"), t("verdict.run"), t("verdict.base"), t("verdict.difference"), t("verdict.finding")], estimates(report.effects), { numeric: [1, 2, 3] })) : null,
    report.worst?.length ? h("details", h("summary", t("verdict.worst")), table([t("verdict.asked"), t("verdict.reference"), t("verdict.said"), t("verdict.before")], report.worst.map((row) => [row.asked, row.answer, row.said, row.said_before].map((text) => h("div.clip", { dir: "auto" }, text ?? "–"))), { caption: t("verdict.worst") })) : null);
}

const interval = (one) => (one.interval ? `${number(one.interval[0])} … ${number(one.interval[1])}` : "–");

/** The page comes with the key, which a link cannot carry. */
async function openReport(id) {
  const { ask } = await import("../api.js");
  const blob = await (await ask(at`runs/${id}/report.html`)).blob();
  const link = h("a", { href: URL.createObjectURL(blob), download: `${id}.html` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
