// One study: how far it is, its picture, what was found, and what can be taken away.

import { ask, fault, h, put, send } from "./dom.js";
import { chart } from "./chart.js";
import { bar, chip, points, subtitle, title } from "./list.js";

const BETWEEN = 2000; // milliseconds between two pictures

export function study(id, me) {
  const path = `/v1/studies/${id}`;
  const head = h("div"), found = h("div"), picture = h("div"), rest = h("div"), log = h("div");
  const element = h("section", {}, head, found, picture, rest, log);
  let drawn = 0, shown = "", again;

  async function draw(force) {
    clearTimeout(again);
    const wait = drawn + BETWEEN - Date.now();
    if (!force && wait > 0) {
      again = setTimeout(draw, wait);
      return;
    }
    drawn = Date.now();
    try {
      const front = await ask(`${path}/front`);
      const key = JSON.stringify(front);
      if (front.picture && key !== shown) picture.replaceChildren(h("h2", {}, "Quality against cache"), chart(front.picture));
      shown = key;
    } catch {} // removed meanwhile
  }

  function show(data) {
    const ended = !["queued", "running"].includes(data.state);
    put(
      head,
      h("div", { class: "head" }, h("h1", {}, title(data)), chip(data)),
      h("p", { class: "quiet" }, subtitle(data)),
      data.state === "running" ? bar(data.progress) : null,
      data.state === "queued" ? h("p", {}, me.workers ? "Waits for a free worker." : "Waits for a worker; none is running.") : null,
      data.error ? h("p", { class: "fault" }, data.error) : null,
    );
    put(found, data.result ? verdict(data) : null);
    if (data.result && !rest.firstChild) put(rest, takeaway(data, path, me), advice(data)); // once: somebody may be typing
    put(
      log,
      data.said.length ? h("div", { class: "card" }, h("h2", {}, "What it said"), data.said.map((line) => h("p", {}, line))) : null,
      data.error && data.log ? h("details", { class: "card" }, h("summary", {}, "Last lines of its process"), h("pre", {}, data.log)) : null,
      h("p", {}, ending(data, ended, path)),
    );
    draw(ended);
  }

  const events = new EventSource(`${path}/events`);
  events.addEventListener("study", (event) => {
    const data = JSON.parse(event.data);
    show(data);
    if (!["queued", "running"].includes(data.state)) events.close();
  });
  ask(path).then(show, (error) => { events.close(); element.replaceChildren(fault(error)); });
  return { element, close: () => { events.close(); clearTimeout(again); } };
}

function verdict(data) {
  const result = data.result;
  return h(
    "div", { class: "card verdict" },
    h("p", { class: "large" }, result.verdict),
    h("dl", { class: "figures" },
      figure("Cache kept", `${(100 * result.cache_fraction).toFixed(1)} %`),
      figure("Difference", points(result)),
      figure("Metric", result.metric.replaceAll("_", " ")),
      figure("Policy", result.policy_from)),
  );
}

function figure(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

function takeaway(data, path, me) {
  const files = data.files.map((name) => h("a", { href: `${path}/files/${name}`, target: "_blank", rel: "noopener" }, name));
  const server = data.result.mlflow || me.mlflow;
  const folder = `studies/${data.id}`;
  return h(
    "div", { class: "card" }, h("h2", {}, "Take away"),
    h("p", { class: "links" },
      h("a", { class: "button", href: `${path}/config`, download: "a2sf_config.json" }, "a2sf_config.json"),
      h("a", { href: `${path}/report`, download: "report.json" }, "report.json"), files),
    h("details", {}, h("summary", {}, "Every trial in MLflow and optuna-dashboard"),
      server ? h("p", {}, h("a", { href: server, target: "_blank", rel: "noopener" }, "Open MLflow"))
        : h("pre", {}, `mlflow ui --workers 1 --backend-store-uri sqlite:///${folder}/mlflow/mlflow.db`),
      h("pre", {}, `optuna-dashboard ${folder}/study.journal`),
      h("p", { class: "quiet" }, "Commands run in the service's data folder.")),
  );
}

function advice(data) {
  const tokens = h("input", { type: "number", min: 1, step: 1, value: 1000, id: "tokens", required: true });
  const answer = h("p", { "aria-live": "polite" });
  const submit = async (event) => {
    event.preventDefault();
    try {
      const said = await send("/v1/suggest", { study: data.id, tokens: Number(tokens.value) });
      const memory = said.half_life === null ? "forgets nothing" : `half-life ${said.half_life} tokens`;
      const reach = `fitted on ${said.tokens_range[0]} to ${said.tokens_range[1]} tokens`;
      answer.textContent = `alpha ${said.alpha.toPrecision(4)} (${memory}), ${reach}. ${said.remark}`;
    } catch (error) {
      answer.replaceChildren(fault(error));
    }
  };
  return h(
    "form", { class: "card", onsubmit: submit }, h("h2", {}, "Which alpha for an input?"),
    h("div", { class: "inline" }, h("label", { for: "tokens" }, "Tokens"), tokens, h("button", { class: "plain" }, "Ask")), answer,
  );
}

function ending(data, ended, path) {
  const words = ended ? "Remove this study and its files" : "Cancel this study";
  const act = async (event) => {
    if (!confirm(`${words}?`)) return;
    event.target.disabled = true;
    await ask(path, { method: "DELETE" });
    if (ended) location.hash = "#/";
  };
  return h("button", { class: "plain danger", onclick: act }, words);
}
