// Parts that several pages show.

import { get, post } from "./api.js";
import { fill, h } from "./dom.js";
import { current, duration, has, moment, t } from "./i18n.js";
import { said } from "./said.js";

/** The state of a run or a task: a word, not a colour alone. */
export const badge = (status) => h(`span.badge.${status}`, t(`status.${status}`));

/** What a task is about, in words. */
export const taskTitle = (task) => t(`task.${task.verb}`, { name: task.subject[1] });

/** A task in one line, with its progress. */
export function taskLine(task) {
  return h("div", h("div.row", h("a", { href: `#/task/${task.id}` }, taskTitle(task)), badge(task.status),
    h("span.dim", moment(task.created))), task.status === "running" ? progressOf(task) : null);
}

const seen = new Map(); // task → (time, done) when it was first seen: the ETA is from what was done since

/** How far a task is, and when it may end. */
export function progressOf(task) {
  const { message = "", done = 0, total = null } = task.progress ?? {};
  const text = message ? doing(message) : t("task.starting");
  const bar = h("progress", total ? { max: total, value: Math.min(done, total), "aria-label": text } : { "aria-label": text });
  return h("div", { role: "status" }, bar, h("div.dim", text, total ? ` ${Math.floor((100 * done) / total)} % ` : " ", eta(task, message, done, total)));
}

/** What a task does at the moment, in the language of the reader where there is a text for it. */
function doing(message) {
  const key = `doing.${message.split(/[ :]/)[0]}`;
  return has(key) && current() !== "en" ? t(key) : message;
}

function eta(task, message, done, total) {
  const key = `${task.id} ${message}`;
  if (!seen.has(key)) seen.set(key, { time: Date.now(), done });
  const first = seen.get(key);
  if (!total || done <= first.done) return null;
  const seconds = ((Date.now() - first.time) / 1000) * ((total - done) / (done - first.done));
  return t("task.eta", { time: duration(seconds) });
}

/** What stopped a task, with advice. */
export function failureBox(task) {
  const { kind = "Unexpected", what = "", where = null, fix = null } = task.failure ?? { kind: "Interrupted" };
  return h("div.error", { role: "alert" }, h("p", h("strong", t(`error.${kind}`))),
    what ? h("p", where ? `${where}: ` : null, said(what)) : null,
    fix ? h("p", h("span.dim", `${t("error.fix")} `), said(fix)) : null,
    task.log ? h("details", h("summary", t("task.log")), h("pre", task.log)) : null);
}

/** A button that asks before it does something that cannot be taken back. */
export function confirmed(text, question, action) {
  return h("button", {
    onclick() {
      const dialog = h("dialog", h("p", question), h("div.row",
        h("button.primary", { onclick: () => { dialog.close(); action(); } }, text),
        h("button", { onclick: () => dialog.close() }, t("action.cancel"))));
      dialog.addEventListener("close", () => dialog.remove());
      document.body.append(dialog);
      dialog.showModal();
    },
  }, text);
}

/** A field for the name of a model, with those that are here to choose from. */
export async function modelInput(context, value, required = true) {
  const models = await get("models", { signal: context.signal });
  if (!document.getElementById("known-models")) document.body.append(h("datalist", { id: "known-models" }));
  fill(document.getElementById("known-models"), models.map((one) => h("option", { value: one.name })));
  return h("input", { value: value ?? models[0]?.name ?? "", list: "known-models", autocomplete: "off", required });
}

/** A text that can be copied; a function makes it when it is. */
export function copyable(text, label) {
  const button = h("button", { type: "button", onclick: async () => {
    await copy(typeof text === "function" ? text() : text);
    fill(button, t("action.copied"));
    setTimeout(() => fill(button, label), 1500);
  } }, label);
  return button;
}

async function copy(text) {
  // Not there on a page of another machine without https.
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Tabs, of which one is shown. @param {[string, string, () => Node][]} tabs  (id, title, what draws it) */
export function tabs(label, list, first) {
  const panel = h("div", { role: "tabpanel", id: `${list[0][0]}-panel`, tabIndex: 0 });
  const buttons = list.map(([id, title, draw]) => h("button", {
    role: "tab", id: `tab-${id}`, "aria-controls": panel.id,
    onclick() { choose(id, draw); },
    onkeydown(event) {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) buttons[(list.findIndex(([other]) => other === id) + step + list.length) % list.length].click();
    },
  }, title));
  function choose(id, draw) {
    for (const button of buttons) {
      const chosen = button.id === `tab-${id}`;
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
      if (chosen && document.activeElement?.role === "tab") button.focus();
    }
    panel.setAttribute("aria-labelledby", `tab-${id}`);
    fill(panel, draw());
  }
  const start = list.find(([id]) => id === first) ?? list[0];
  choose(start[0], start[2]);
  return h("div", h("div.tabs", { role: "tablist", "aria-label": label }, buttons), panel);
}

/** Stop a task in order. */
export const stopTask = (id) => post(`tasks/${id}/stop`);
