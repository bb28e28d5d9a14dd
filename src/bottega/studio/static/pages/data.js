// Data sets: bring a file in, look at its rows, check them, mend them.

import { ask, get, path as at, post } from "../api.js";
import { go, showError } from "../app.js";
import { debounced, field, fill, h, select, table } from "../dom.js";
import { bytes, moment, named, number, percent, t } from "../i18n.js";
import { columnsView } from "../columns.js";
import { badge, confirmed, failureBox, modelInput, progressOf, tabs } from "../parts.js";
import { said } from "../said.js";
import { tokenRows } from "../tokens.js";

const PAGE_ROWS = 20;

export async function page(place, parts, query, context) {
  if (parts.length === 0 || parts[0] === "") return list(place, context);
  return one(place, parts, query, context);
}

// All data sets, and the place to drop a file

async function list(place, context) {
  const sets = h("div");
  fill(place, h("h1", t("nav.data")), dropZone(context), sets);
  const data = await get("data", { signal: context.signal });
  fill(sets, data.length ? table([t("data.name"), t("data.rows-head"), t("data.size"), t("data.fields"), t("data.created")],
    data.map((set) => [h("a", { href: `#/data/${set.name}` }, set.name), number(set.rows), bytes(set.size),
      Object.keys(set.fields).join(", "), moment(set.created)]), { caption: t("data.list"), numeric: [1, 2] }) : h("p.dim", t("home.no-data")));
}

function dropZone(context) {
  const input = h("input", { type: "file", hidden: true, onchange: () => input.files[0] && begin(input.files[0]) });
  const layout = layoutFields();
  const zone = h("div.drop", h("p", t("data.drop")), h("button.primary", { onclick: () => input.click() }, t("data.choose")),
    h("p.dim", t("data.formats")), h("details", h("summary", t("data.layout")), layout.element), input);
  const status = h("div");
  context.listen(zone, "dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  context.listen(zone, "dragleave", () => zone.classList.remove("over"));
  context.listen(zone, "drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files[0]) begin(event.dataTransfer.files[0]);
  });
  async function begin(file) {
    try {
      fill(status);
      const task = await upload(file, layout.value(), status, context.signal);
      go(`task/${task}?then=go`);
    } catch (error) {
      fill(status);
      showError(status, error);
    }
  }
  return h("div", zone, status);
}

/** How a file is to be read, where it does not say so itself. */
function layoutFields() {
  const encoding = h("input", { placeholder: "utf-8", list: "encodings", autocomplete: "off" });
  const delimiter = select([["", t("data.auto")], [",", t("data.comma")], [";", t("data.semicolon")], ["tab", t("data.tab")], ["|", t("data.bar")]], "");
  const header = select([["", t("data.auto")], ["true", t("yes")], ["false", t("no")]], "");
  const columns = h("input", { placeholder: "text, label", autocomplete: "off" });
  const element = h("div.fields", field(t("data.encoding"), encoding, t("data.encoding-help")), field(t("data.delimiter"), delimiter),
    field(t("data.header"), header), field(t("data.columns"), columns, t("data.columns-help")),
    h("datalist", { id: "encodings" }, ["utf-8", "latin-1", "cp1252", "utf-16"].map((name) => h("option", { value: name }))));
  const value = () => {
    const layout = {};
    if (encoding.value.trim()) layout.encoding = encoding.value.trim();
    if (delimiter.value) layout.delimiter = delimiter.value;
    if (header.value) layout.header = header.value === "true";
    const names = columns.value.split(",").map((name) => name.trim()).filter(Boolean);
    if (names.length) layout.columns = names;
    return layout;
  };
  return { element, value };
}

/** Send a file in parts; a part that does not arrive is sent again. Returns the task that reads it. */
async function upload(file, layout, status, signal) {
  const { id, part } = await post("data/uploads", { file: file.name, size: file.size }, { signal });
  const bar = h("progress", { max: file.size, value: 0, "aria-label": t("data.uploading", { file: file.name }) });
  const text = h("div.dim");
  fill(status, h("div", { role: "status" }, t("data.uploading", { file: file.name }), bar, text));
  const start = performance.now();
  for (let offset = 0; offset < file.size; offset += part) {
    await again(() => ask(at`data/uploads/${id}/${offset}`, { method: "PUT", body: file.slice(offset, offset + part), signal }), signal);
    const done = Math.min(offset + part, file.size);
    bar.value = done;
    const rate = done / ((performance.now() - start) / 1000);
    fill(text, t("data.uploaded", { done: bytes(done), size: bytes(file.size), part: percent(done / file.size), rate: bytes(rate) }));
  }
  const { task } = await post(at`data/uploads/${id}/import`, { file: file.name, layout }, { signal });
  return task;
}

const TRIES = 4;

async function again(send, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await send();
    } catch (error) {
      if (signal.aborted || attempt === TRIES || (error.status && error.status < 500)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** attempt));
    }
  }
}

// One data set

async function one(place, [name, view, detail], query, context) {
  const { versions } = await get(at`data/${name}`, { signal: context.signal });
  const number_ = Number(query.get("v")) || versions[0].number;
  const version = versions.find((candidate) => candidate.number === number_) ?? versions[0];
  const choose = select(versions.map((candidate) => [String(candidate.number), versionTitle(candidate)]), String(version.number),
    (value) => go(`data/${name}?v=${value}`));
  choose.setAttribute("aria-label", t("data.version"));
  const remove = async () => { await get(at`data/${name}`, { method: "DELETE" }); go("data"); };
  fill(place,
    h("div.row.ends", h("h1", name), h("div.row", versions.length > 1 ? choose : null,
      h("a.button.primary", { href: `#/new?data=${name}&v=${version.number}` }, t("data.train")),
      confirmed(t("action.delete"), t("data.delete-sure", { name }), remove))),
    h("p.dim", t("data.rows", { n: version.rows }), ", ", bytes(version.size), ", ", versionTitle(version)),
    version.bad ? h("div.notice", h("p", t("data.bad", { n: version.bad })), h("details", h("summary", t("data.bad-which")), h("ul", version.errors.map((text) => h("li", said(text)))))) : null,
    tabs(t("data.views"), [
      ["rows", t("data.tab-rows"), () => rowBrowser(name, version, Number(query.get("row")) || 0, context)],
      ["columns", t("data.tab-columns"), () => columnsView(name, version, context)],
      ["audit", t("data.tab-audit"), () => auditView(name, version, detail, context)],
      ["tokens", t("data.tab-tokens"), () => tokenView(name, version, context)],
    ], view ?? "rows"));
}

const versionTitle = (version) => t("data.version-title", { n: version.number, origin: t(`origin.${version.origin[0]}`), time: moment(version.created) });

function rowBrowser(name, version, start, context) {
  const names = Object.keys(version.fields);
  const rows = h("div");
  const jump = h("input", { type: "number", min: 1, max: version.rows, value: start + 1 });
  const draw = async (first) => {
    start = Math.max(0, Math.min(first, version.rows - 1));
    jump.value = start + 1;
    const answer = await get(`${at`data/${name}/rows`}?version=${version.number}&start=${start}&count=${PAGE_ROWS}`, { signal: context.signal });
    fill(rows, table([t("data.row"), ...names], answer.rows.map((row, index) => [number(start + index + 1), ...names.map((key) => cell(row[key]))]),
      { caption: t("data.rows-shown", { first: start + 1, last: start + answer.rows.length, n: version.rows }), numeric: [0] }));
  };
  const later = debounced(300, (value) => draw(value - 1).catch((error) => showError(rows, error)));
  jump.addEventListener("input", () => jump.value && later(Number(jump.value)));
  draw(start).catch((error) => showError(rows, error));
  return h("div", h("div.row", h("button", { onclick: () => draw(start - PAGE_ROWS) }, t("data.earlier")),
    h("button", { onclick: () => start + PAGE_ROWS < version.rows && draw(start + PAGE_ROWS) }, t("data.later")), h("label.row", t("data.row"), jump)), rows);
}

// Longest text of a cell at first; the rest is there on demand.
const CELL = 400;

function cell(value) {
  const text = typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value);
  if (text.length <= CELL) return h("div.clip", { dir: "auto" }, text);
  const box = h("div.clip", { dir: "auto" }, text.slice(0, CELL));
  const more = h("button.plain", { onclick: () => { box.className = ""; fill(box, text.slice(0, 100000), text.length > 100000 ? ` … (${number(text.length)})` : ""); more.remove(); } }, t("data.whole"));
  return h("div", box, more);
}

// The audit: findings that lead to rows, and a new version without them

function auditView(name, version, shown, context) {
  const place = h("div");
  const show = async (id) => {
    await context.every(700, async () => {
      if (!place.isConnected || place.dataset.done === id) return;
      const task = await get(at`tasks/${id}`, { signal: context.signal });
      if (task.status === "done") { place.dataset.done = id; fill(place, findings(name, version, task.result)); }
      else if (["failed", "interrupted", "stopped"].includes(task.status)) { place.dataset.done = id; fill(place, failureBox(task), start); }
      else fill(place, task.status === "running" ? progressOf(task) : h("p", t("task.waits")));
    });
  };
  const start = h("div", h("p", t("audit.what")));
  modelInput(context, undefined, false).then((model) => start.append(field(t("audit.model"), model, t("audit.model-help")),
    h("button.primary", { onclick: async () => {
      const { task } = await post(at`data/${name}/audit`, { version: version.number, model: model.value.trim() || null });
      show(task);
    } }, t("audit.start")))).catch((error) => showError(place, error));
  fill(place, start);
  if (shown) show(shown);
  else latestAudit(name, version, context).then((id) => id && show(id), (error) => showError(place, error));
  return place;
}

/** The newest audit of a version. */
async function latestAudit(name, version, context) {
  const tasks = await get("tasks", { signal: context.signal });
  return tasks.find((task) => task.verb === "audit" && task.arguments.name === name && task.arguments.version === version.number && task.status !== "stopped")?.id;
}

function findings(name, version, audit) {
  const mend = async (only) => {
    const { task } = await post(at`data/${name}/fix`, { version: version.number, only });
    go(`task/${task}?then=go`);
  };
  const mendable = audit.findings.filter((finding) => finding.mend);
  return h("div",
    h("p", t("audit.read", { n: audit.rows }), " ", audit.findings.length ? t("audit.found", { n: audit.findings.length }) : t("audit.clean")),
    mendable.length ? h("p", h("button.primary", { onclick: () => mend([]) }, t("audit.fix-all"))) : null,
    h("ul.cards", audit.findings.map((finding) => h("li", h("article.card",
      h("h3", said(finding.kind), " ", badge(finding.severity)), h("p", said(finding.what)), h("p.dim", said(finding.fix)),
      h("p", t("audit.rows", { n: finding.count })),
      h("div.row", finding.rows.slice(0, 12).map((row) => h("a", { href: `#/data/${name}?v=${version.number}&row=${row}` }, t("audit.row", { n: row + 1 })))),
      h("details", h("summary", t("audit.examples")), h("ul", finding.examples.map((text) => h("li", text)))))))),
    Object.entries(audit.shape).map(([title, pairs]) => h("details", { open: true }, h("summary", shapeTitle(title)), histogram(pairs, shapeTitle(title)))),
    Object.keys(audit.unchecked).length ? h("details", h("summary", t("audit.unchecked")), h("ul", Object.entries(audit.unchecked).map(([check, why]) => h("li", named(`check.${check}`, check), ": ", said(why))))) : null);
}

const shapeTitle = (name) => named(`shape.${name}`, name);

function histogram(pairs, title) {
  const most = Math.max(1, ...pairs.map(([, count]) => count));
  return table([title, t("data.rows-head"), ""], pairs.map(([label, count]) => [label, number(count),
    h("div.bar", { style: { minWidth: "8rem" } }, h("i", { style: { width: `${(100 * count) / most}%` } }))]), { caption: title, numeric: [1] });
}

// What a model reads of the rows, and which tokens it learns

function tokenView(name, version, context) {
  const place = h("div"), model = h("input", { list: "models", autocomplete: "off", required: true });
  const objective = h("select"), models = h("datalist", { id: "models" });
  const draw = async (event) => {
    event?.preventDefault();
    fill(place, h("progress", { "aria-label": t("task.starting") }));
    const body = { data: name, version: version.number, model: model.value, objective: objective.value };
    try {
      fill(place, tokenRows(await post("recipes/preview", body, { signal: context.signal }), objective.value));
    } catch (error) {
      fill(place);
      showError(place, error);
    }
  };
  Promise.all([get("models", { signal: context.signal }), get(at`recipes/suggestion/${name}`, { signal: context.signal })]).then(([known, suggestion]) => {
    fill(models, known.map((one) => h("option", { value: one.name })));
    model.value ||= known[0]?.name ?? "";
    fill(objective, suggestion.objectives.map((kind) => h("option", { value: kind, selected: kind === suggestion.objective }, kind)));
    if (model.value) draw();
  }).catch((error) => showError(place, error));
  return h("div", h("form.row", { onsubmit: draw }, field(t("new.base"), model), field(t("new.objective"), objective), models,
    h("button.primary", { type: "submit" }, t("data.show-tokens"))), place);
}
