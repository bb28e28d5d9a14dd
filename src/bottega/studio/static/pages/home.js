// The first page: what is here, what is under way, and where to begin.

import { get, news, path as at, post } from "../api.js";
import { fill, h } from "../dom.js";
import { bytes, current, moment, number, t } from "../i18n.js";
import { badge, taskLine, taskTitle } from "../parts.js";
import { go } from "../app.js";

const SHOWN = 6;

// Milliseconds between looks at what is new.
const EVERY = 2000;

export async function page(place, parts, query, context) {
  const live = h("div");
  fill(place, live);
  let before = "";
  await context.every(EVERY, async () => {
    const home = await news("home", EVERY, { signal: context.signal });
    const now = JSON.stringify(home);
    if (now === before) return;
    before = now;
    draw(live, home);
  });
}

function draw(place, { tasks, runs, data, models, machine }) {
  const empty = !runs.length && !data.length && !tasks.length;
  fill(place,
    h("h1", t("home.title")),
    empty ? welcome() : null,
    tasks.length ? section("home.tasks", h("ul.plain", tasks.map((task) => h("li.row", taskLine(task), ended(task) ? forgetButton(task) : null)))) : null,
    section("home.runs", runs.length ? h("ul.cards", runs.slice(0, SHOWN).map(runCard)) : nothing("home.no-runs", "#/new", "nav.new"),
      runs.length > SHOWN ? h("p", h("a", { href: "#/runs" }, t("home.all-runs", { n: runs.length }))) : null),
    section("home.data", data.length ? h("ul.cards", data.map(dataCard)) : nothing("home.no-data", "#/data", "home.add-data")),
    section("home.models", models.length ? h("ul.cards", models.map(modelCard)) : h("p.dim", t("home.no-models"))),
    empty ? null : h("p", h("button", { onclick: startDemo }, t("home.demo"))),
    h("p.dim", t("home.machine", { cores: machine.cores, memory: bytes(machine.memory), free: bytes(machine.free) })));
}

const ended = (task) => !["running", "waiting"].includes(task.status);

/** Takes a task that has ended off the list; what it made stays. */
const forgetButton = (task) => h("button.plain", { "aria-label": t("home.forget-task", { title: taskTitle(task) }), onclick: async (event) => {
  await get(at`tasks/${task.id}`, { method: "DELETE" });
  event.target.closest("li").remove();
} }, t("home.forget"));

const section = (key, ...content) => h("section", { "aria-label": t(key) }, h("h2", t(key)), content);

const nothing = (key, href, action) => h("p", h("span.dim", t(key)), " ", h("a", { href }, t(action)));

const welcome = () => h("div.notice", h("p", t("home.welcome")),
  h("p.row", h("button.primary", { onclick: startDemo }, t("home.demo")), h("a.button", { href: "#/data" }, t("home.add-data"))));

async function startDemo(event) {
  event.target.disabled = true;
  const { task } = await post("demo", { language: current() });
  go(`task/${task}`);
}

const runCard = (run) => h("li", h("a.card", { href: `#/runs/${run.id}` },
  h("h3", run.id, " ", badge(run.status)),
  h("div", run.steps ? t("run.progress", { step: run.step, steps: run.steps }) : null),
  run.validation_loss === null ? null : h("div", t("run.validation", { loss: number(run.validation_loss) })),
  run.verdict ? h("div.clip", { lang: "en" }, run.verdict) : null,
  h("div.dim", moment(run.time))));

const dataCard = (one) => h("li", h("a.card", { href: `#/data/${one.name}` }, h("h3", one.name),
  h("div", t("data.rows", { n: one.rows })), h("div.dim", Object.keys(one.fields).join(", "))));

const modelCard = (one) => h("li", h("div.card", h("h3", one.name), h("div.dim", t(`model.${one.kind}`))));
