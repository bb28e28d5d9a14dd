// Asking the server. Every request carries a key: a page of another origin cannot send one.

const KEY = "bottega.key";

// Milliseconds for which an answer that another page got is kept.
const LONGEST = 5000;

/** The key of this session; the server of this machine takes any, unless it was started with one. */
export const key = () => sessionStorage.getItem(KEY) ?? "studio";

export const setKey = (value) => sessionStorage.setItem(KEY, value);

/** What the server answered instead of what was asked. `kind`: the class of the error, for its text here. */
export class ServerError extends Error {
  constructor(status, document) {
    const error = document?.error ?? {};
    super(error.message ?? `HTTP ${status}`);
    Object.assign(this, { status, kind: error.code ?? "", where: error.where ?? "", fix: error.fix ?? "", param: error.param ?? "" });
  }
}

/** The server did not answer at all. */
export class Offline extends Error {}

/** Ask for a path below the studio's API. A body that is no Blob is sent as JSON. */
export async function ask(path, { method = "GET", body, signal, keepalive = false, base = "api/" } = {}) {
  const raw = body instanceof Blob;
  if (method !== "GET") changed = Date.now();
  const headers = { authorization: `Bearer ${key()}` };
  if (body !== undefined) headers["content-type"] = raw ? "application/octet-stream" : "application/json";
  let answer;
  try {
    answer = await fetch(base + path, { method, headers, signal, keepalive, body: body === undefined || raw ? body : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Offline(error.message);
  }
  if (!answer.ok) throw new ServerError(answer.status, await answer.json().catch(() => null));
  return answer;
}

/** The document that a path answers with. */
export async function get(path, options) {
  return (await ask(path, options)).json();
}

/** The document that a path answers with, no older than some milliseconds; for what a page asks again and again. */
export async function news(path, milliseconds, options) {
  const told = listen().heard.get(path);
  if (told && told.asked > Math.max(changed, Date.now() - milliseconds)) return told.document;
  const asked = Date.now();
  const document = await get(path, options);
  listen().channel.postMessage({ path, asked, document });
  return document;
}

// Pages of one browser tell each other what they were answered, so that ten of them ask as often as one. Each hears only
// those with the same key.
let listening = null;
let changed = 0; // when this page last asked for something to be done: what was known before may be out of date

function listen() {
  if (listening?.key === key()) return listening;
  listening?.channel.close();
  const [channel, heard] = [new BroadcastChannel(`bottega ${key()}`), new Map()];
  channel.addEventListener("message", ({ data }) => {
    for (const [path, { asked }] of heard) if (data.asked - asked > LONGEST) heard.delete(path);
    heard.set(data.path, data);
  });
  listening = { key: key(), channel, heard };
  return listening;
}

/** Send a document, and read one. */
export const post = (path, body, options = {}) => get(path, { method: "POST", body: body ?? {}, ...options });

/** A path with parts that may hold any character. */
export const path = (parts, ...values) => parts.reduce((whole, part, index) => whole + encodeURIComponent(values[index - 1]) + part);
