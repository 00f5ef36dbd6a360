// All studies, newest first.

import { ask, fault, h, percent, put, span, when } from "./dom.js";

const LOOK = 3000; // milliseconds between two looks while something goes on

export function list(me) {
  const element = h("section");
  const rows = h("div");
  let timer, open = true;

  async function look() {
    try {
      const { studies } = await ask("/v1/studies");
      if (!open) return;
      rows.replaceChildren(...(studies.length ? studies.map(card) : [empty()]));
      const busy = studies.some((study) => ["queued", "running"].includes(study.state));
      timer = setTimeout(look, document.hidden ? 10 * LOOK : busy ? LOOK : 5 * LOOK);
    } catch (error) {
      rows.replaceChildren(fault(error));
      timer = setTimeout(look, 5 * LOOK);
    }
  }
  put(
    element,
    h("div", { class: "head" }, h("h1", {}, "Studies"), h("a", { class: "button", href: "#/new" }, "New study")),
    me.workers ? null : h("p", { class: "warning" }, "No worker is running, so nothing goes on: start one with a2sf-tune worker."),
    rows,
  );
  look();
  return { element, close: () => { open = false; clearTimeout(timer); } };
}

function empty() {
  return h("p", { class: "card quiet" }, "No studies yet. A study takes your samples and a model, and finds how little of the cache is enough.");
}

function card(study) {
  return h(
    "a", { class: "card row", href: `#/studies/${study.id}` },
    h("div", { class: "head" }, h("strong", {}, title(study)), chip(study)),
    h("div", { class: "quiet" }, subtitle(study)),
    study.state === "running" ? bar(study.progress) : null,
    study.result ? h("div", {}, `Keeps ${percent(study.result.cache_fraction)} of the cache, ${points(study.result)}.`) : null,
    study.error ? h("div", { class: "fault" }, study.error) : null,
  );
}

export function title(study) {
  return study.name || `${taskName(study)} on ${study.asked.model}`;
}

export function subtitle(study) {
  const asked = study.asked;
  const parts = [study.name ? `${taskName(study)} on ${asked.model}` : null, `${asked.trials} trials`,
    `${asked.max_degradation} points allowed`, when(study.created)];
  return parts.filter(Boolean).join(" · ");
}

function taskName(study) {
  return typeof study.asked.task === "string" ? study.asked.task : study.asked.task.title ?? "own task";
}

export function points(result) {
  const [mean, low, high] = result.difference_points.map((each) => `${each > 0 ? "+" : ""}${each.toFixed(2)}`);
  return `${mean} points [${low}, ${high}] on ${result.report_samples} unseen samples`;
}

export function chip(study) {
  const status = study.state === "done" ? study.result.status : study.state;
  const kind = { adopt: "good", "do not adopt": "bad", failed: "bad", "promising, not proven": "fair", running: "live" }[status] ?? "";
  return h("span", { class: `chip ${kind}` }, status);
}

export function bar(progress) {
  if (!progress) return h("div", { class: "quiet" }, "Starting");
  const { step, done, total, seconds_left: left } = progress;
  const words = total ? `${step} ${done} of ${total}${left ? `, about ${span(left)} left` : ""}` : step;
  return h("div", { class: "progress" }, h("progress", total ? { value: done, max: total } : {}), h("span", { class: "quiet" }, words));
}
