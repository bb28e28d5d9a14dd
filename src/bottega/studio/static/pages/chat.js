// Chat: one model or two side by side, with the same prompt and seed, as they write.

import { ask, post } from "../api.js";
import { errorBox, showError } from "../app.js";
import { field, fill, h } from "../dom.js";
import { duration, percent, t } from "../i18n.js";
import { copyable, modelInput } from "../parts.js";

const CONTROLS = [["temperature", 0.7, { min: 0, max: 2, step: 0.1 }], ["top_p", 1, { min: 0.05, max: 1, step: 0.05 }], ["max_tokens", 256, { min: 1, max: 4096, step: 1 }], ["seed", 0, { min: 0, step: 1 }]];

export async function page(place, parts, query, context) {
  const first = await modelInput(context, query.get("model")), second = await modelInput(context, query.get("beside") ?? "", false);
  const system = h("textarea", { rows: 2 }), stop = h("input", { autocomplete: "off" });
  const controls = Object.fromEntries(CONTROLS.map(([key, value, range]) => [key, h("input", { type: "number", value, ...range })]));
  const colours = h("input", { type: "checkbox", onchange: () => talk.classList.toggle("coloured", colours.checked) });
  const blind = h("input", { type: "checkbox", onchange: () => draw() });
  const message = h("textarea", { rows: 3, required: true, onkeydown: (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); } } });
  const talk = h("div.talk", { role: "log", "aria-live": "polite" }), status = h("div", { role: "status" }), verdict = h("div");
  let turns = []; // {user, answers: [side, side], swapped}
  let writing = null;

  const names = () => [first.value.trim(), second.value.trim()].filter(Boolean);
  const settings = () => ({ ...Object.fromEntries(CONTROLS.map(([key]) => [key, Number(controls[key].value)])), ...(stop.value ? { stop: [stop.value] } : {}) });

  function conversation(side, upTo = turns.length) {
    const messages = system.value.trim() ? [{ role: "system", content: system.value.trim() }] : [];
    for (const turn of turns.slice(0, upTo)) {
      messages.push({ role: "user", content: turn.user });
      if (turn.answers[side]?.text) messages.push({ role: "assistant", content: turn.answers[side].text });
    }
    return messages;
  }

  async function open() {
    for (const name of names()) {
      fill(status, h("span", t("chat.loading", { name })), h("progress", { "aria-label": t("chat.loading", { name }) }));
      await post("models/open", { model: name }, { signal: context.signal });
    }
    fill(status);
  }

  async function send(event) {
    event?.preventDefault();
    if (writing || !message.value.trim() || !names().length) return;
    turns.push({ user: message.value, answers: [], swapped: blind.checked && names().length === 2 && Math.random() < 0.5 });
    message.value = "";
    await answer();
  }

  async function answer() {
    const turn = turns.at(-1);
    writing = new AbortController();
    context.signal.addEventListener("abort", () => writing?.abort(), { once: true });
    turn.answers = names().map((name) => ({ name, text: "", tokens: [], error: null }));
    draw();
    try {
      await open();
      // Two requests at once: the server computes them together, and each writes as it comes.
      await Promise.all(turn.answers.map((_, side) => stream(turn, side, writing.signal)));
    } catch (error) {
      if (error.name !== "AbortError") showError(status, error);
    }
    writing = null;
    draw();
    message.focus();
  }

  async function stream(turn, side, signal) {
    const one = turn.answers[side], start = performance.now();
    const body = { model: one.name, messages: conversation(side), stream: true, logprobs: true, top_logprobs: 4, ...settings() };
    try {
      const response = await ask("chat/completions", { method: "POST", body, signal, base: "../v1/" });
      for await (const event of events(response.body.getReader())) {
        if (event.error) throw new Error(event.error.message);
        const choice = event.choices?.[0];
        if (choice?.logprobs?.content) one.tokens.push(...choice.logprobs.content);
        if (choice?.delta?.content) one.text += choice.delta.content;
        one.seconds = (performance.now() - start) / 1000;
        paint(one);
      }
      one.done = true;
    } catch (error) {
      if (error.name === "AbortError") return;
      one.error = error;
    }
  }

  function paint(one) {
    if (one.element) fill(one.element, one.error ? errorBox(one.error) : null, one.tokens.length ? one.tokens.map(tokenSpan) : one.text);
  }

  function bubble(turn, side) {
    const one = turn.answers[side];
    if (!one) return null;
    one.element = h("div.answer", { dir: "auto" });
    paint(one);
    const title = blind.checked && !turn.revealed && turn.answers.length === 2 ? t((side === 0) !== turn.swapped ? "chat.a" : "chat.b") : one.name.split("/").at(-1);
    return h("article.card", h("h3", title), one.element, one.seconds && !writing ? h("div.dim", t("chat.speed", { n: one.tokens.length, time: duration(one.seconds) })) : null);
  }

  function draw() {
    fill(talk, turns.map((turn, index) => {
      const sides = turn.answers.map((_, side) => bubble(turn, side));
      return h("div.turn", h("article.card.you", h("h3", t("chat.you")), h("div", { dir: "auto" }, turn.user), h("button.plain", { type: "button", onclick: () => edit(index) }, t("chat.edit"))),
        h("div.sides", turn.swapped ? sides.reverse() : sides));
    }));
    const last = turns.at(-1);
    fill(verdict, last && !writing && blind.checked && last.answers.length === 2 && last.answers.every((one) => one.text && one.done) && !last.revealed ? judge(last) : null);
    stopping.hidden = !writing;
    again.disabled = Boolean(writing) || !turns.length;
  }

  /** Which answer is better: kept in the session of the two models, and only then are they named. */
  function judge(turn) {
    const say = async (said) => {
      try {
        const summary = await post("labels/arena/compare", { models: turn.answers.map((one) => one.name), prompt: turn.user, answers: turn.answers.map((one) => one.text), said, rater: "me", swapped: turn.swapped }, { signal: context.signal });
        turn.revealed = true;
        draw();
        const [left, right] = turn.swapped ? [1, 0] : [0, 1];
        fill(verdict, h("p.notice", t("chat.revealed", { left: turn.answers[left].name, right: turn.answers[right].name, name: turn.answers[1].name, part: percent(summary.win_rate?.value), n: summary.win_rate?.count ?? 0 })));
      } catch (error) { showError(verdict, error); }
    };
    return h("div.row", { role: "group", "aria-label": t("chat.better") }, h("strong", t("chat.better")), [["left"], ["tie"], ["bad"], ["right"]].map(([said]) => h("button", { type: "button", onclick: () => say(said) }, t(`chat.${said}`))));
  }

  function edit(index) {
    message.value = turns[index].user;
    turns = turns.slice(0, index);
    draw();
    message.focus();
  }

  const code = () => `from openai import OpenAI\n\nclient = OpenAI(base_url="${new URL("../v1", location.href)}", api_key="…")\nanswer = client.chat.completions.create(\n    model=${JSON.stringify(names()[0] ?? "")},\n    messages=${JSON.stringify(conversation(0), null, 4).replaceAll("\n", "\n    ")},\n${Object.entries(settings()).map(([key, value]) => `    ${key}=${JSON.stringify(value)},\n`).join("")})\nprint(answer.choices[0].message.content)\n`;
  const stopping = h("button", { type: "button", hidden: true, onclick: () => writing?.abort() }, t("action.stop"));
  const again = h("button", { type: "button", disabled: true, onclick: () => answer() }, t("chat.again"));
  const form = h("form", { onsubmit: send }, field(t("chat.message"), message), h("div.row", h("button.primary", { type: "submit" }, t("chat.send")), stopping, again,
    h("button", { type: "button", onclick: () => { turns = []; fill(verdict); draw(); } }, t("chat.clear")), copyable(code, t("chat.code")),
    h("button", { type: "button", onclick: async () => { for (const name of names()) await post("models/close", { model: name }); } }, t("chat.unload"))));
  fill(place, h("h1", t("nav.chat")), h("p", t("chat.what")), h("div.fields", field(t("chat.first"), first), field(t("chat.second"), second, t("chat.second-help")), field(t("chat.system"), system)),
    h("details", h("summary", t("chat.settings")), h("div.fields", CONTROLS.map(([key]) => field(t(`chat.${key}`), controls[key])), field(t("chat.stop"), stop))),
    h("div.row", h("label.row", colours, t("chat.probabilities")), h("label.row", blind, t("chat.blind"))), talk, verdict, status, form);
  message.focus();
}

/** A token with its probability as colour and on hover. */
function tokenSpan(score) {
  const part = Math.exp(score.logprob), others = score.top_logprobs.filter((one) => one.token !== score.token).map((one) => `${JSON.stringify(one.token)} ${percent(Math.exp(one.logprob), 0)}`);
  const span = h("span.scored", { title: t("chat.token", { text: JSON.stringify(score.token), part: percent(part, 1), others: others.join(", ") || "–" }) }, score.token);
  span.style.setProperty("--doubt-share", `${Math.round(70 * (1 - part))}%`);
  return span;
}

/** The documents of a stream of events. `for await` over a stream itself does not work in every browser. */
async function* events(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const lines = rest.split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}
