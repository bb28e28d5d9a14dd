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
  const headers = { authorization: `Bearer ${key()}` };
  if (body !== undefined) headers["content-type"] = raw ? "application/octet-stream" : "application/json";
  let answer;
  try {
    answer = await fetch(base + path, { method, headers, signal, keepalive, body: body === undefined || raw ? body : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Offline(error.message);
  } finally {
    if (method !== "GET") changed = Date.now();
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
  const { channel, heard } = listen(), asked = Date.now();
  for (const [one, told] of heard) if (Math.abs(asked - told.asked) > LONGEST) heard.delete(one);
  const told = heard.get(path);
  if (told && told.asked > Math.max(changed, asked - milliseconds)) return told.document;
  const document = await get(path, options);
  // With another key by now there is another channel.
  if (channel === listen().channel) channel.postMessage({ path, asked, document });
  return document;
}

// Pages of one browser tell each other what they were answered, so that ten of them ask as often as one. Each hears only
// those with the same key.
let listening = null;
let changed = 0; // when something that this page asked for was done: what was known before may be out of date

function listen() {
  if (listening?.key === key()) return listening;
  listening?.channel.close();
  const [channel, heard] = [new BroadcastChannel(`${new URL("api/", document.baseURI)} ${key()}`), new Map()];
  channel.addEventListener("message", ({ data }) => heard.set(data.path, data));
  listening = { key: key(), channel, heard };
  return listening;
}

/** Send a document, and read one. */
export const post = (path, body, options = {}) => get(path, { method: "POST", body: body ?? {}, ...options });

/** A path with parts that may hold any character. */
export const path = (parts, ...values) => parts.reduce((whole, part, index) => whole + encodeURIComponent(values[index - 1]) + part);
