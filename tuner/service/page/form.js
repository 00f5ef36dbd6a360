// A new study: samples go up, the validation shows, the study starts.

import { ask, fault, h, send, size } from "./dom.js";

const LOOK = 1000;

export function form(me) {
  const answer = h("div", { "aria-live": "polite" });
  const file = h("input", { type: "file", accept: ".jsonl,.csv,.parquet", id: "file" });
  const task = h("select", { id: "task" });
  const model = h("select", { id: "model" });
  const own = h("textarea", { id: "own", rows: 7, spellcheck: "false", placeholder: "include: chat.yaml\nprompt: \"{context}\\nQ: {question}\\nA:\"" });
  const name = h("input", { id: "name", maxlength: 200, placeholder: "so that you find it again" });
  const points = h("input", { id: "points", type: "number", min: 0, step: "any", value: 2, required: true });
  const trials = h("input", { id: "trials", type: "number", min: 1, step: 1, value: 100, required: true });
  const columns = h("input", { id: "columns", placeholder: "answer=summary, context=text" });
  const limit = h("input", { id: "limit", type: "number", min: 1, step: 1, placeholder: "all" });
  const seed = h("input", { id: "seed", type: "number", min: 0, step: 1, value: 0 });
  const look = h("button", { type: "button", class: "plain", onclick: () => act(validate) }, "Check it first");
  const start = h("button", {}, "Start the study");
  const uploaded = { file: null, id: null };
  let open = true;

  ask("/v1/choices").then((choices) => {
    task.append(...Object.entries(choices.tasks).map(([key, title]) => h("option", { value: key }, `${title} (${key})`)));
    task.append(h("option", { value: "" }, "My own, written below"));
    model.append(...choices.models.map((each) => h("option", {}, each)));
  }, (error) => answer.replaceChildren(fault(error)));
  const ownField = field("own", "The task (YAML, see docs/tasks.md)", own);
  ownField.hidden = true;
  task.addEventListener("change", () => (ownField.hidden = task.value !== ""));

  // The body as YAML, of which JSON is a part: so an own task goes in as it was written.
  function body(samples) {
    const fields = {
      name: name.value, model: model.value, max_degradation: Number(points.value), trials: Number(trials.value),
      seed: Number(seed.value || 0), ...(samples ? { samples } : {}), ...(limit.value ? { limit: Number(limit.value) } : {}),
      ...(columns.value.trim() ? { columns: pairs(columns.value) } : {}), ...(task.value ? { task: task.value } : {}),
    };
    const lines = Object.entries(fields).map(([key, value]) => `${key}: ${JSON.stringify(value)}`);
    if (!task.value) lines.push("task:", ...own.value.split("\n").map((line) => `  ${line}`));
    return `${lines.join("\n")}\n`;
  }

  async function samples() {
    const chosen = file.files[0];
    if (!chosen) return null;
    if (uploaded.file !== chosen) {
      if (chosen.size > me.most_upload) throw new Error(`${chosen.name} has ${size(chosen.size)}; the limit is ${size(me.most_upload)}.`);
      tell(`Sending ${chosen.name} (${size(chosen.size)})`);
      const { id } = await send(`/v1/samples?name=${encodeURIComponent(chosen.name)}`, chosen, "application/octet-stream");
      Object.assign(uploaded, { file: chosen, id });
    }
    return uploaded.id;
  }

  async function validate() {
    const asked = body(await samples());
    tell("Reading task and samples");
    let found = await send("/v1/validations", asked, "application/yaml");
    while (open && ["queued", "running"].includes(found.state)) {
      tell(found.state === "queued" ? waiting() : found.progress?.step ?? "Starting");
      await new Promise((done) => setTimeout(done, LOOK));
      found = await ask(`/v1/validations/${found.id}`);
    }
    if (found.error) throw new Error(found.error);
    answer.replaceChildren(h("div", { class: "card" }, h("h2", {}, "What the model reads and writes"),
      h("dl", { class: "lines" }, found.lines.map(([word, said]) => (word ? [h("dt", {}, word), h("dd", {}, said)] : h("dd", { class: "warning" }, said))))));
  }

  async function begin() {
    const asked = body(await samples());
    tell("Reading task and samples");
    const made = await send("/v1/studies", asked, "application/yaml");
    location.hash = `#/studies/${made.id}`;
  }

  async function act(what) {
    if (!element.reportValidity()) return;
    look.disabled = start.disabled = true;
    try {
      await what();
    } catch (error) {
      answer.replaceChildren(fault(error));
    }
    look.disabled = start.disabled = false;
  }

  const waiting = () => (me.workers ? "Waiting for a free worker" : "Waiting for a worker; none is running");
  const tell = (words) => answer.replaceChildren(h("p", { class: "quiet" }, `${words} …`));
  const element = h(
    "form", { onsubmit: (event) => { event.preventDefault(); act(begin); } },
    h("h1", {}, "New study"),
    h("div", { class: "card" },
      field("file", "Samples", file, `.jsonl, .csv or .parquet with context, question, answer; up to ${size(me.most_upload)}. Without a file the task's own samples are taken.`),
      h("div", { class: "grid" }, field("task", "Task", task), field("model", "Model", model),
        field("points", "Allowed loss, in points", points), field("trials", "Trials", trials)),
      ownField, field("name", "Name", name),
      h("details", {}, h("summary", {}, "More"),
        h("div", { class: "grid" }, field("columns", "Columns with other names", columns), field("limit", "Only the first rows", limit), field("seed", "Seed", seed))),
      h("p", { class: "actions" }, look, start)),
    answer,
  );
  return { element: h("section", {}, element), close: () => { open = false; } };
}

function field(id, label, input, hint = null) {
  return h("div", { class: "field" }, h("label", { for: id }, label), input, hint ? h("small", { class: "quiet" }, hint) : null);
}

function pairs(text) {
  return Object.fromEntries(text.split(",").map((each) => each.split("=").map((word) => word.trim())).filter(([key]) => key).map(([key, value]) => [key, value ?? ""]));
}
