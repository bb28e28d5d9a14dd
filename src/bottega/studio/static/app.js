// The frame of the studio: which page is shown, the navigation, language and connection.

import { get, Offline, ServerError, setKey } from "./api.js";
import { field, fill, h, select } from "./dom.js";
import { current, LANGUAGES, load, t } from "./i18n.js";
import { said } from "./said.js";

// Address → the module that draws it. `nav`: whether it stands in the navigation.
const PAGES = [
  { path: "", name: "home", nav: true },
  { path: "data", name: "data", nav: true },
  { path: "new", name: "new", nav: true },
  { path: "runs", name: "runs", nav: true },
  { path: "chat", name: "chat", nav: true },
  { path: "label", name: "label", nav: true },
  { path: "explain", name: "explain", nav: true },
  { path: "tokenizer", name: "tokenizer", nav: true },
  { path: "embeddings", name: "embeddings", nav: true },
  { path: "task", name: "task", nav: false },
];

const main = document.getElementById("main");
let leave = null; // ends what the present page does in the background

/** What a page gets: its place in the address, and ways to work in the background for as long as it is shown. */
function makeContext(signal) {
  return {
    signal,
    /** Call at once and then regularly, while the page is shown and visible. A call waits for the one before. */
    every(milliseconds, action) {
      let timer = 0;
      const again = async () => {
        if (signal.aborted) return;
        if (!document.hidden) {
          try {
            await action();
            connected(true);
          } catch (error) {
            if (signal.aborted || error.name === "AbortError") return;
            if (error instanceof Offline) connected(false);
            else showError(main, error);
          }
        }
        if (!signal.aborted) timer = setTimeout(again, milliseconds);
      };
      signal.addEventListener("abort", () => clearTimeout(timer));
      return again();
    },
    /** Listen until the page is left. */
    listen(target, name, action) {
      target.addEventListener(name, action, { signal });
    },
  };
}

/** Whether the server answers; said only when it changes. */
function connected(yes) {
  const status = document.getElementById("status");
  if ((status.textContent === "") === yes) return;
  fill(status, yes ? null : t("frame.offline"));
}

/** An error where it happened, with what to do about it. */
export function showError(place, error) {
  if (error.name === "AbortError") return;
  place.querySelector(":scope > .error")?.remove();
  place.prepend(errorBox(error));
  if (!(error instanceof ServerError || error instanceof Offline)) console.error(error);
}

/** A box that says what went wrong. */
export function errorBox(error) {
  if (error instanceof Offline) return h("div.error", { role: "alert" }, h("p", t("error.Offline")));
  const kind = `error.${CODES[error.kind] ?? (error.kind || "Unexpected")}`;
  return h("div.error", { role: "alert" },
    h("p", h("strong", t(document.documentElement.lang && kindKnown(kind) ? kind : "error.Unexpected"))),
    h("p", error.where ? `${error.where}: ` : null, said(error.message ?? error.what)),
    error.fix ? h("p", h("span.dim", `${t("error.fix")} `), said(error.fix)) : null);
}

// Codes of the API of models, which the conversations ask.
const CODES = { out_of_memory: "OutOfMemory", rate_limit_exceeded: "Overloaded", model_not_found: "ModelError", invalid_value: "RecipeError",
  missing_required_parameter: "RecipeError", unsupported_parameter: "RecipeError", unsupported_model: "ModelError" };

const KINDS = ["RecipeError", "DataError", "ModelError", "RunError", "CheckpointError", "DiskError", "Overloaded", "OutOfMemory", "Diverged"];
const kindKnown = (kind) => KINDS.includes(kind.slice("error.".length));

/** Draw the page of the present address. */
async function show() {
  const [, path, query = ""] = location.hash.match(/^#?\/?([^?]*)(?:\?(.*))?$/s);
  const [first, ...rest] = path.split("/").map(decodeURIComponent);
  const page = PAGES.find((one) => one.path === first);
  leave?.abort();
  leave = new AbortController();
  const { signal } = leave;
  drawFrame(page?.path);
  if (!page) {
    fill(main, h("h1", t("frame.unknown")), h("p", h("a", { href: "#/" }, t("frame.back"))));
    return;
  }
  const place = h("div.page", { id: page.name });
  try {
    const module = await import(`./pages/${page.name}.js`);
    if (signal.aborted) return;
    fill(main, place);
    document.title = `${t(`nav.${page.name}`)} – bottega`;
    await module.page(place, rest, new URLSearchParams(query), makeContext(signal));
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof ServerError && error.status === 401) askForKey();
    else showError(main, error);
  }
}

function drawFrame(present) {
  const link = (page) => h("a", { href: `#/${page.path}`, "aria-current": page.path === present ? "page" : null }, t(`nav.${page.name}`));
  fill(document.getElementById("nav"), PAGES.filter((page) => page.nav).map(link));
  document.getElementById("nav").setAttribute("aria-label", t("frame.navigation"));
  fill(document.getElementById("skip"), t("frame.skip"));
  const languages = select(Object.entries(LANGUAGES), current(), async (code) => { await load(code); await show(); });
  languages.setAttribute("aria-label", t("frame.language"));
  fill(document.getElementById("settings"), languages);
}

/** The server was started with a key, or is asked from another machine. */
function askForKey() {
  const input = h("input", { type: "password", required: true, autocomplete: "off" });
  const send = (event) => { event.preventDefault(); setKey(input.value); show(); };
  fill(main, h("form.narrow", { onsubmit: send }, h("h1", t("key.title")), h("p", t("key.why")),
    field(t("key.label"), input), h("button.primary", { type: "submit" }, t("key.enter"))));
  input.focus();
}

/** Go to another page. */
export const go = (path) => { location.hash = `#/${path}`; };

async function start() {
  await load();
  window.addEventListener("hashchange", async () => { await show(); main.focus({ preventScroll: true }); window.scrollTo(0, 0); });
  // What failed outside a page's own calls is shown, too.
  window.addEventListener("unhandledrejection", (event) => { event.preventDefault(); showError(main, event.reason); });
  await show();
  document.documentElement.dataset.ready = "yes";
}

// Not awaited here: the pages import this module, and would wait for it to end.
start();
