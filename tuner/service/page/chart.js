// The picture of a study. All places come from the service, in the units of the axes; here they are only drawn.

const NS = "http://www.w3.org/2000/svg";
const INK = "#30343A", DOTS = "#BCC2CA", FRONT = "#0072B2", CHOSEN = "#D55E00";
const STAR = starPoints(11, 4.6);

export function chart(picture) {
  const box = document.createElement("figure");
  box.className = "chart";
  const said = document.createElement("figcaption");
  said.textContent = picture.note;
  const room = () => box.clientWidth - 16; // less its padding; nothing while it is not shown
  const paint = () => room() > 200 && box.replaceChildren(drawn(picture, room(), said), legend(picture), said);
  new ResizeObserver(paint).observe(box);
  return box;
}

function drawn(picture, width, said) {
  const narrow = width < 520;
  const height = Math.round(Math.min(460, Math.max(290, width * 0.56)));
  const pad = { left: narrow ? 40 : 52, right: 12, top: 24, bottom: 42 };
  const [low, high] = picture.y_range;
  const x = (kept) => pad.left + ((kept - -1) / 103) * (width - pad.left - pad.right);
  const y = (lost) => height - pad.bottom - ((lost - low) / (high - low)) * (height - pad.top - pad.bottom);
  const svg = tag("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": picture.y_label });
  const right = x(102);

  if (picture.allowed) {
    const top = y(picture.allowed.y);
    svg.append(tag("rect", { x: pad.left, y: top, width: right - pad.left, height: height - pad.bottom - top, fill: "#E6F4EE" }));
    svg.append(tag("line", { x1: pad.left, x2: right, y1: top, y2: top, stroke: "#009E73" }));
    svg.append(text(right - 4, top + 14, picture.allowed.text, { "text-anchor": "end", fill: "#00694D" }));
  }
  const written = [];
  for (const tick of [...picture.y_ticks].sort((a, b) => Math.abs(a.y) - Math.abs(b.y))) {
    const place = y(tick.y);
    svg.append(tag("line", { x1: pad.left, x2: right, y1: place, y2: place, stroke: "#E7EAEE", "stroke-width": 0.8 }));
    if (written.some((other) => Math.abs(other - place) < 13)) continue; // its text would stand on another
    written.push(place);
    svg.append(text(pad.left - 6, place + 4, tick.text, { "text-anchor": "end" }));
  }
  for (const tick of picture.x_ticks) {
    svg.append(tag("line", { x1: x(tick), x2: x(tick), y1: pad.top, y2: height - pad.bottom, stroke: "#E7EAEE", "stroke-width": 0.8 }));
    svg.append(text(x(tick), height - pad.bottom + 16, `${tick}`, { "text-anchor": "middle" }));
  }
  svg.append(text((pad.left + right) / 2, height - 6, picture.x_label, { "text-anchor": "middle" }));
  svg.append(text(2, 13, narrow ? picture.y_label : `${picture.y_label}, lower is better`, {}));

  for (const dot of picture.dots) svg.append(spot(x(dot.x), y(dot.y), 3.2, DOTS, dot.text, said));
  for (const family of picture.families) {
    const points = family.points.map((point) => `${x(point.x)},${y(point.y)}`).join(" ");
    svg.append(tag("polyline", { points, fill: "none", stroke: family.color, "stroke-width": 1.3 }));
    for (const point of family.points) svg.append(spot(x(point.x), y(point.y), 3.2, family.color, point.text, said));
  }
  if (picture.front.length) {
    const steps = picture.front.map((point, i) => (i ? `H${x(point.x)}V${y(point.y)}` : `M${x(point.x)},${y(point.y)}`)).join("");
    svg.append(tag("path", { d: steps, fill: "none", stroke: FRONT, "stroke-width": 2.6 }));
    for (const point of picture.front) svg.append(spot(x(point.x), y(point.y), 4, FRONT, point.text, said));
  }
  for (const mark of picture.proven) svg.append(...proven(mark, x, y, said));
  return svg;
}

function proven(mark, x, y, said) {
  const color = mark.chosen ? CHOSEN : INK;
  const place = x(mark.x);
  const bar = tag("path", {
    d: `M${place},${y(mark.low)}V${y(mark.high)}M${place - 4},${y(mark.low)}h8M${place - 4},${y(mark.high)}h8`,
    stroke: color, "stroke-width": 1.8, fill: "none",
  });
  const shape = mark.chosen
    ? tag("path", { d: STAR, transform: `translate(${place} ${y(mark.y)})`, fill: color, stroke: "#fff" })
    : tag("circle", { cx: place, cy: y(mark.y), r: 5, fill: color, stroke: "#fff" });
  return [bar, told(shape, mark.text, said)];
}

function legend(picture) {
  const list = document.createElement("ul");
  list.className = "legend";
  const entries = [["best trials", FRONT], ["trials", DOTS], ...picture.families.map((each) => [each.name, each.color])];
  for (const mark of picture.proven) entries.unshift([`${mark.label}, ${mark.chosen ? "exported" : "best known method"}`, mark.chosen ? CHOSEN : INK]);
  for (const [name, color] of entries) {
    const swatch = tag("svg", { width: 12, height: 12, "aria-hidden": "true" });
    swatch.append(tag("circle", { cx: 6, cy: 6, r: 5, fill: color }));
    const item = document.createElement("li");
    item.append(swatch, name);
    list.append(item);
  }
  return list;
}

function spot(cx, cy, r, fill, words, said) {
  return told(tag("circle", { cx, cy, r, fill, stroke: "#fff", "stroke-width": 0.6 }), words, said);
}

// What a mark says shows under the picture, for a finger too.
function told(shape, words, said) {
  const title = tag("title", {});
  title.textContent = words;
  shape.append(title);
  const show = () => (said.textContent = words);
  shape.addEventListener("pointerenter", show);
  shape.addEventListener("click", show);
  return shape;
}

function text(x, y, words, given) {
  const element = tag("text", { x, y, "font-size": 12, fill: "#555B63", ...given });
  element.textContent = words;
  return element;
}

function tag(name, given) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(given)) element.setAttribute(key, value);
  return element;
}

function starPoints(outer, inner) {
  const at = (i) => {
    const radius = i % 2 ? inner : outer, angle = (Math.PI * i) / 5 - Math.PI / 2;
    return `${(radius * Math.cos(angle)).toFixed(2)},${(radius * Math.sin(angle)).toFixed(2)}`;
  };
  return `M${Array.from({ length: 10 }, (_, i) => at(i)).join("L")}Z`;
}
