/* The report's sliders and plots. Everything they show lies in the page as JSON; text enters it as
   text only (textContent), never as markup. */
"use strict";

document.documentElement.classList.add("js");

const HUES = 8;

function contentOf(element) {
  return JSON.parse(element.querySelector("script").textContent);
}

/* ---- before and after ---- */

for (const widget of document.querySelectorAll(".compare")) {
  compare(widget, contentOf(widget));
}

function compare(widget, { pictures, aspects }) {
  const find = (name) => widget.querySelector(name);
  const [stage, canvas, range] = [find(".stage"), find(".canvas"), find("input")];
  const [left, right, view, zoom] = [".left", ".right", ".view", ".zoom"].map(find);
  const chosen = (select) => select.selectedOptions[0].textContent;
  const exact = () => view.value === "1";
  const factor = () => 2 ** zoom.value;
  const crops = widget.closest(".clip").querySelectorAll(".crops img");
  const source = (number) => (exact() ? crops[number].src : pictures[number]);

  function show() {
    for (const [image, select, side] of [
      [find(".over"), left, "Left"],
      [find(".under"), right, "Right"],
    ]) {
      image.src = source(select.value);
      image.alt = `${side}: ${chosen(select)}, ${chosen(view)}`;
    }
    find(".left-name").textContent = chosen(left);
    find(".right-name").textContent = chosen(right);
    find(".marks").style.display = exact() ? "none" : "";
    canvas.classList.toggle("exact", exact() || factor() > 1);
    stage.classList.toggle("zoomed", factor() > 1);
    widget.style.setProperty("--aspect", aspects[view.value]);
    place();
  }

  /* the divider is a share of what is seen, so that it stays in sight when zoomed */
  function place() {
    const seen = stage.scrollLeft + (range.value / 100) * stage.clientWidth;
    canvas.style.setProperty("--cut", `${(100 * seen) / (canvas.offsetWidth || 1)}%`);
    const middle = stage.scrollTop + stage.clientHeight / 2;
    canvas.style.setProperty("--knob", `${(100 * middle) / (canvas.offsetHeight || 1)}%`);
    const share = Math.round(range.value);
    range.setAttribute("aria-valuetext", `${share} % ${chosen(left)}, ${100 - share} % ${chosen(right)}`);
  }

  function enlarge() {
    const old = canvas.offsetWidth || 1;
    const [x, y] = [stage.scrollLeft + stage.clientWidth / 2, stage.scrollTop + stage.clientHeight / 2];
    stage.style.setProperty("--zoom", factor());
    show();
    const grown = canvas.offsetWidth / old;
    stage.scrollTo(x * grown - stage.clientWidth / 2, y * grown - stage.clientHeight / 2);
    place();
  }

  function drag(event) {
    const box = stage.getBoundingClientRect();
    const share = (100 * (event.clientX - box.left)) / stage.clientWidth;
    range.value = Math.min(100, Math.max(0, share));
    place();
  }

  canvas.addEventListener("pointerdown", (event) => {
    const onDivider = event.target.closest(".divider");
    if (event.button !== 0 || (event.pointerType !== "mouse" && factor() > 1 && !onDivider)) return;
    canvas.setPointerCapture(event.pointerId);
    drag(event);
    canvas.onpointermove = drag;
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => (canvas.onpointermove = null));
  }
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || factor() > 1) return; /* when zoomed, the arrow keys scroll */
    event.preventDefault();
    range.value = Number(range.value) + step * (event.shiftKey ? 10 : 1);
    place();
  });
  range.addEventListener("input", place);
  stage.addEventListener("scroll", place);
  for (const select of [left, right, view]) select.addEventListener("change", show);
  zoom.addEventListener("change", enlarge);
  new ResizeObserver(place).observe(stage);
  show();
}

/* ---- plots ---- */

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function html(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const hue = (colour) => `c${colour % HUES}`;
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const dash = (colour) => DASHES[Math.floor(colour / HUES) % DASHES.length];

/* the shape of a point differs too, for those who do not tell the colours apart */
function mark(colour, x, y, size = 6) {
  const at = (points) => points.map(([a, b]) => `${x + a * size},${y + b * size}`).join(" ");
  const shapes = [
    () => svg("circle", { cx: x, cy: y, r: size }),
    () => svg("rect", { x: x - size * 0.9, y: y - size * 0.9, width: size * 1.8, height: size * 1.8 }),
    () => svg("polygon", { points: at([[0, -1.2], [1.15, 0.9], [-1.15, 0.9]]) }),
    () => svg("polygon", { points: at([[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]]) }),
    () => svg("polygon", { points: at([[0, 1.2], [1.15, -0.9], [-1.15, -0.9]]) }),
  ];
  const shape = shapes[colour % shapes.length]();
  shape.setAttribute("class", "mark");
  return shape;
}

function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))} k`;
  if (size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

/* a scale from values to pixels, with ticks; zeros of a logarithmic one lie before its beginning */
function scaleOf(values, from, to, log) {
  const used = log ? values.filter((v) => v > 0) : values;
  let [low, high] = [Math.min(...used), Math.max(...used)];
  if (!used.length) [low, high] = [1, 10];
  const f = log ? Math.log10 : (v) => v;
  const pad = (f(high) - f(low)) * 0.08 || (log ? 0.3 : Math.abs(high) * 0.02 || 1);
  const [a, b] = [f(low) - pad, f(high) + pad];
  const gutter = log && used.length < values.length ? 34 * Math.sign(to - from) : 0;
  const scale = (v) =>
    log && v <= 0 ? from + gutter / 2 : from + gutter + ((f(v) - a) / (b - a)) * (to - from - gutter);
  scale.ticks = log ? logTicks(a, b) : ticks(a, b);
  if (gutter) scale.ticks.unshift(0);
  return scale;
}

function ticks(a, b) {
  const raw = (b - a) / 5;
  const base = 10 ** Math.floor(Math.log10(raw));
  const step = base * [1, 2, 5, 10].find((m) => base * m >= raw);
  const found = [];
  for (let n = Math.ceil(a / step); n * step <= b; n += 1) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function logTicks(a, b) {
  const found = [];
  const factors = b - a > 2.5 ? [1] : b - a > 1 ? [1, 3] : [1, 1.5, 2, 3, 5, 7];
  for (let n = Math.floor(a); n <= b; n += 1) {
    for (const m of factors) {
      const value = Number((m * 10 ** n).toPrecision(3));
      if (Math.log10(value) >= a && Math.log10(value) <= b) found.push(value);
    }
  }
  return b - a > 6 ? found.filter((_, n) => n % 2 === 0) : found;
}

function axes(width, height, x, y, xName, yName, box) {
  const parts = [];
  let last = -Infinity;
  for (const tick of x.ticks) {
    parts.push(svg("line", { class: "grid-line", x1: x(tick), x2: x(tick), y1: box.top, y2: box.bottom }));
    const text = number(tick);
    if (x(tick) - last < text.length * 7 + 8) continue;
    last = x(tick);
    parts.push(svg("text", { x: x(tick), y: box.bottom + 18, "text-anchor": "middle" }, text));
  }
  for (const tick of y.ticks) {
    parts.push(svg("line", { class: "grid-line", y1: y(tick), y2: y(tick), x1: box.left, x2: box.right }));
    parts.push(svg("text", { x: box.left - 8, y: y(tick) + 4, "text-anchor": "end" }, number(tick)));
  }
  const middle = (box.left + box.right) / 2;
  parts.push(svg("text", { class: "name", x: middle, y: height - 10, "text-anchor": "middle" }, xName));
  parts.push(svg("text", { class: "name", x: 12, y: 20 }, yName));
  return svg("g", { "aria-hidden": "true" }, ...parts);
}

function frameOf(plot, share) {
  const width = Math.max(plot.clientWidth, 260);
  const height = Math.round(Math.min(440, Math.max(250, width * share)));
  const box = { left: 66, right: width - 20, top: 36, bottom: height - 48 };
  return [width, height, box];
}

function tipOf(plot) {
  const tip = html("div", { class: "tip", hidden: "", "aria-hidden": "true" });
  plot.append(tip);
  return (text, x, y) => {
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const left = Math.min(Math.max(x - tip.offsetWidth / 2, 4), plot.clientWidth - tip.offsetWidth - 4);
    const above = y - tip.offsetHeight - 16;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 0 ? above : y + 18}px`;
  };
}

function legend(series, shape) {
  const items = series.map(({ label, colour }) =>
    html("li", { class: hue(colour) }, svg("svg", { viewBox: "0 0 22 14", "aria-hidden": "true" }, shape(colour)), label),
  );
  return html("ul", { class: "legend" }, ...items);
}

function chooser(name, options) {
  const select = html("select", {}, ...Object.entries(options).map(([value, text]) => html("option", { value }, text)));
  return [html("label", {}, html("span", {}, name), select), select];
}

function onWidth(plot, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    draw();
  }).observe(plot);
}

/* points that can be hovered, tapped, or reached with Tab and the arrow keys */
function pointsChart(figure, content) {
  const plot = figure.querySelector(".plot");
  const [xLabel, xSelect] = chooser("Across", content.x);
  const [yLabel, ySelect] = chooser("Up", content.y);
  const [scopeLabel, scopeSelect] = chooser("Of", content.scopes);
  figure.insertBefore(html("div", { class: "controls" }, xLabel, yLabel, scopeLabel), plot);
  const tip = tipOf(plot);
  plot.after(legend(content.points, (colour) => mark(colour, 11, 7, 5)));

  function draw() {
    plot.querySelector("svg")?.remove();
    tip("");
    const [xKey, yKey, scope] = [xSelect.value, ySelect.value, scopeSelect.value];
    const known = content.points
      .filter((p) => p.x[xKey] !== undefined && p.y[scope]?.[yKey] !== undefined)
      .map((p) => ({ ...p, at: [p.x[xKey], p.y[scope][yKey]] }))
      .sort((a, b) => a.at[0] - b.at[0]);
    const [width, height, box] = frameOf(plot, 0.55);
    const line = content.marks[xKey]; /* a value that is asked for, and its name */
    const across = known.map((p) => p.at[0]);
    const x = scaleOf(line ? [...across, line[0]] : across, box.left, box.right, true);
    const y = scaleOf(known.map((p) => p.at[1]), box.bottom, box.top, false);
    const drawing = svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${content.title}: ${known.length} points` },
      axes(width, height, x, y, content.x[xKey], content.y[yKey], box),
    );
    if (line) {
      const at = x(line[0]);
      drawing.append(svg("line", { class: "asked-line", x1: at, x2: at, y1: box.top, y2: box.bottom }));
      drawing.append(svg("text", { x: at, y: box.top - 6, "text-anchor": "middle" }, line[1]));
    }
    const taken = known.map((p) => [x(p.at[0]) - 9, y(p.at[1]) - 9, x(p.at[0]) + 9, y(p.at[1]) + 9]);
    for (const point of known) {
      const [px, py] = [x(point.at[0]), y(point.at[1])];
      const text = `${point.label}\n${content.x[xKey]}: ${number(point.at[0])}\n${content.y[yKey]}: ${number(point.at[1])}`;
      const group = svg(
        "g",
        { class: `point ${hue(point.colour)}`, tabindex: 0, role: "img", "aria-label": text.replaceAll("\n", ", ") },
        svg("circle", { class: "halo", cx: px, cy: py, r: 18 }),
        mark(point.colour, px, py),
      );
      const show = () => tip(text, px, py);
      for (const event of ["pointerenter", "focus"]) group.addEventListener(event, show);
      for (const event of ["pointerleave", "blur"]) group.addEventListener(event, () => tip(""));
      group.addEventListener("click", () => group.focus());
      group.addEventListener("keydown", (event) => step(event, drawing));
      drawing.append(group);
      const place = freePlace(point.label, px, py, box, taken);
      if (place) drawing.append(svg("text", { class: "name", x: place[0], y: place[1], "aria-hidden": "true" }, point.label));
    }
    plot.prepend(drawing);
  }

  for (const select of [xSelect, ySelect, scopeSelect]) select.addEventListener("change", draw);
  onWidth(plot, draw);
}

function step(event, drawing) {
  const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Escape: 0 }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  const all = [...drawing.querySelectorAll(".point")];
  if (by === 0) event.currentTarget.blur();
  else all[(all.indexOf(event.currentTarget) + by + all.length) % all.length].focus();
}

/* where a name fits beside its point without covering another; the legend has those that do not */
function freePlace(label, x, y, box, taken) {
  const [wide, tall] = [label.length * 7, 14];
  const places = [
    [x + 12, y + 4],
    [x - 12 - wide, y + 4],
    [x - wide / 2, y - 12],
    [x - wide / 2, y + 24],
  ];
  for (const [left, base] of places) {
    const area = [left, base - tall + 2, left + wide, base + 3];
    const inside = area[0] >= box.left && area[2] <= box.right && area[1] >= box.top - 10 && area[3] <= box.bottom;
    const free = taken.every((t) => t[0] >= area[2] || t[2] <= area[0] || t[1] >= area[3] || t[3] <= area[1]);
    if (inside && free) {
      taken.push(area);
      return [left, base];
    }
  }
  return null;
}

/* lines with a cursor: by pointer on the plot, or by the range below it */
function linesChart(figure, content) {
  const plot = figure.querySelector(".plot");
  const tip = tipOf(plot);
  const steps = [...new Set(content.lines.flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);
  const range = html("input", { type: "range", min: 0, max: steps.length - 1, step: 1, value: steps.length - 1 });
  const output = html("output", {});
  const stroke = (colour) =>
    svg("line", { class: "curve", x1: 0, x2: 22, y1: 7, y2: 7, "stroke-dasharray": dash(colour) });
  plot.after(
    html(
      "label",
      { class: "cursor" },
      html("span", {}, content.x, html("i", { class: "hidden" }, ` of ${content.title}`)),
      range,
    ),
    output,
    legend(content.lines, stroke),
  );
  let scales;

  function draw() {
    plot.querySelector("svg")?.remove();
    const [width, height, box] = frameOf(plot, 0.5);
    const x = scaleOf(steps, box.left, box.right, false);
    x.ticks = x.ticks.filter(Number.isInteger); /* there is no half a step */
    const y = scaleOf(content.lines.flatMap((l) => l.points.map((p) => p[1])), box.bottom, box.top, content.log);
    const drawing = svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${content.title}; ${content.lines.length} lines` },
      axes(width, height, x, y, content.x, content.y, box),
      svg("line", { class: "cursor-line", y1: box.top, y2: box.bottom, visibility: "hidden" }),
    );
    for (const line of content.lines) {
      const points = line.points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
      drawing.append(svg("polyline", { class: `curve ${hue(line.colour)}`, points, "stroke-dasharray": dash(line.colour) }));
    }
    drawing.addEventListener("pointermove", (event) => {
      const at = event.clientX - drawing.getBoundingClientRect().left;
      const gaps = steps.map((s) => Math.abs(x(s) - at));
      range.value = gaps.indexOf(Math.min(...gaps));
      show(true);
    });
    drawing.addEventListener("pointerleave", () => show(false));
    plot.prepend(drawing);
    scales = { x, box };
    show(false);
  }

  function show(visible) {
    const at = steps[range.value];
    const told = content.lines.map((line) => {
      const point = line.points.find((p) => p[0] === at);
      return point ? `${line.label}: ${number(point[1])}` : null;
    });
    const values = told.filter(Boolean);
    output.textContent = `${content.x} ${number(at)}. ${values.join("; ")}`;
    range.setAttribute("aria-valuetext", output.textContent);
    const cursor = plot.querySelector(".cursor-line");
    cursor.setAttribute("visibility", visible ? "visible" : "hidden");
    cursor.setAttribute("x1", scales.x(at));
    cursor.setAttribute("x2", scales.x(at));
    tip(visible ? [`${content.x} ${number(at)}`, ...values].join("\n") : "", scales.x(at), scales.box.top + 20);
  }

  range.addEventListener("input", () => show(true));
  range.addEventListener("focus", () => show(true));
  range.addEventListener("blur", () => show(false));
  onWidth(plot, draw);
}

for (const figure of document.querySelectorAll(".chart")) {
  const content = contentOf(figure);
  (content.kind === "points" ? pointsChart : linesChart)(figure, content);
}
