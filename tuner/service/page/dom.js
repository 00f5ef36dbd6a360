// Elements from plain calls. Texts become text nodes, so nothing that a user has written is taken for markup.

export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...there(children));
  return element;
}

// What an element holds from now on; null stands for what is left out.
export function put(element, ...children) {
  element.replaceChildren(...there(children));
}

function there(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

// A request; what is not answered is thrown with the service's own sentence.
export async function ask(path, given = {}) {
  let response;
  try {
    response = await fetch(path, given);
  } catch {
    throw new Refused(0, "The service does not answer; is it running?");
  }
  const text = await response.text();
  if (response.ok) return text ? JSON.parse(text) : null;
  let said = `The service answered ${response.status}.`;
  try {
    said = JSON.parse(text).detail;
  } catch {} // a proxy before the service answers in its own way
  throw new Refused(response.status, said);
}

export class Refused extends Error {
  constructor(status, said) {
    super(said);
    this.status = status;
  }
}

export const send = (path, data, type = "application/json") =>
  ask(path, { method: "POST", headers: { "Content-Type": type }, body: type === "application/json" ? JSON.stringify(data) : data });

export function fault(error) {
  return h("p", { class: "fault", role: "alert" }, error.message);
}

export function percent(share, digits = 0) {
  return `${(100 * share).toFixed(digits)} %`;
}

export function when(iso) {
  return new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export function span(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function size(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : bytes >= 1e6 ? `${Math.round(bytes / 1e6)} MB` : `${Math.ceil(bytes / 1e3)} kB`;
}
