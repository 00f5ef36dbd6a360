// Which view is shown, and who one is.

import { ask, fault, h, send } from "./dom.js";
import { list } from "./list.js";
import { form } from "./form.js";
import { study } from "./study.js";

const main = document.getElementById("main");
const team = document.getElementById("team");
const leave = document.getElementById("leave");
let close = () => {};

async function show() {
  close();
  close = () => {};
  let me;
  try {
    me = await ask("/v1/me");
  } catch (error) {
    main.replaceChildren(error.status === 401 ? signIn() : fault(error));
    return;
  }
  leave.hidden = me.owner === "local"; // has not signed in
  team.textContent = said(me);
  const [, id] = location.hash.match(/^#\/studies\/([0-9a-f]{30})$/) ?? [];
  const view = id ? study(id, me) : location.hash === "#/new" ? form(me) : list(me);
  for (const link of document.querySelectorAll("nav a")) {
    link.toggleAttribute("aria-current", link.hash === (location.hash || "#/"));
  }
  main.replaceChildren(view.element);
  close = view.close;
  window.scrollTo(0, 0);
}

function said(me) {
  const workers = me.workers === 1 ? "1 worker" : `${me.workers || "no"} workers`;
  return `${me.owner} · ${workers}${me.busy_workers ? `, ${me.busy_workers} busy` : ""}`;
}

function signIn() {
  const token = h("input", { type: "password", name: "token", autocomplete: "current-password", required: true, id: "token" });
  const answer = h("div");
  const submit = async (event) => {
    event.preventDefault();
    try {
      await send("/session", { token: token.value.trim() });
      await show();
    } catch (error) {
      answer.replaceChildren(fault(error));
    }
  };
  team.textContent = "";
  leave.hidden = true;
  return h(
    "form", { class: "card narrow", onsubmit: submit },
    h("h1", {}, "Sign in"),
    h("p", { class: "quiet" }, "With the token that whoever runs this service has made for you: a2sf-tune token OWNER."),
    h("label", { for: "token" }, "Token"), token,
    h("p", {}, h("button", {}, "Sign in")), answer,
  );
}

leave.addEventListener("click", async () => {
  await ask("/session", { method: "DELETE" });
  location.hash = "#/";
  await show();
});
window.addEventListener("hashchange", show);
show();
