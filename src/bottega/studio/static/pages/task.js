// One task: how far it is, what came of it, or what went wrong.

import { news } from "../api.js";
import { go } from "../app.js";
import { fill, h } from "../dom.js";
import { t } from "../i18n.js";
import { badge, failureBox, progressOf, stopTask, taskTitle } from "../parts.js";

// Milliseconds between looks at a task.
const EVERY = 700;

// Where a task's result is to be seen.
const RESULTS = {
  import: (task) => `data/${task.subject[1]}`,
  fix: (task) => `data/${task.subject[1]}`,
  audit: (task) => `data/${task.subject[1]}/audit/${task.id}`,
  train: (task) => `runs/${task.subject[1]}`,
  evaluate: (task) => `runs/${task.subject[1]}/verdict`,
  demo: () => "new?data=demo-tasks",
  answers: (task) => `label/${task.subject[1]}`,
};

export async function page(place, [id], query, context) {
  let before = "";
  await context.every(EVERY, async () => {
    const task = await news(`tasks/${encodeURIComponent(id)}`, EVERY, { signal: context.signal });
    if (JSON.stringify(task) === before) return;
    before = JSON.stringify(task);
    const result = RESULTS[task.verb]?.(task);
    fill(place, h("h1", taskTitle(task), " ", badge(task.status)),
      task.status === "running" ? progressOf(task) : null,
      task.status === "waiting" ? h("p", t("task.waits")) : null,
      ["failed", "interrupted"].includes(task.status) ? failureBox(task) : null,
      task.status === "done" && task.result?.folder ? h("p", t("task.folder"), " ", h("code", task.result.folder)) : null,
      h("p.row",
        task.status === "done" && result ? h("a.button.primary", { href: `#/${result}` }, t("task.see")) : null,
        ["running", "waiting"].includes(task.status) ? h("button", { onclick: () => stopTask(id) }, t("action.stop")) : null,
        task.verb === "train" && task.status !== "done" ? h("a.button", { href: `#/runs/${task.subject[1]}` }, t("task.see-run")) : null));
    // Who watched it to the end sees what came of it.
    if (task.status === "done" && result && query.get("then") === "go") go(result);
  });
}
