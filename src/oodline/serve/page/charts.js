// Pictures as SVG. Every text of the server becomes a text node.

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes, parent, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}

// Held-out scores as bars, those at or below this image's score stronger; threshold and score as lines.
export function drawHistogram(place, histogram, verdict) {
  place.replaceChildren();
  const width = place.clientWidth, height = place.clientHeight;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, place);
  const { edges, counts } = histogram;
  const values = [edges[0], edges[edges.length - 1], verdict.score, verdict.threshold];
  let low = Math.min(...values), high = Math.max(...values);
  const margin = (high - low || 1) * 0.03;
  low -= margin;
  high += margin;
  const top = 44, bottom = height - 24;
  const x = (value) => ((value - low) / (high - low)) * width;
  const tallest = Math.max(...counts, 1);

  counts.forEach((count, i) => {
    const tall = (count / tallest) * (bottom - top);
    const box = (from, to, kind) => {
      const wide = x(to) - x(from);
      if (count && wide > 0) shape("rect", { class: kind, x: x(from), y: bottom - tall, width: Math.max(wide - 1, 0.5), height: tall }, svg);
    };
    const cut = Math.min(Math.max(verdict.score, edges[i]), edges[i + 1]);
    box(edges[i], cut, "below");
    box(cut, edges[i + 1], "bar");
  });
  shape("line", { class: "axis", x1: 0, x2: width, y1: bottom, y2: bottom }, svg);
  for (const tick of ticks(low, high, Math.max(3, Math.floor(width / 110)))) {
    shape("text", { class: "tick", x: x(tick), y: height - 6, "text-anchor": anchor(x(tick), width) }, svg, short(tick));
  }
  mark(svg, x(verdict.threshold), 22, bottom, "threshold", "", "threshold", 34, width, x(verdict.score));
  const kind = verdict.is_ood ? "ood" : "";
  mark(svg, x(verdict.score), 4, bottom, `this ${kind}`, `this-text ${kind}`, "this image", 14, width, x(verdict.threshold));
}

function mark(svg, at, from, to, line, kind, words, y, width, other) {
  shape("line", { class: line, x1: at, x2: at, y1: from, y2: to }, svg);
  // beside its line, on the side away from the other one where there is room
  const room = words.length * 7;
  const left = (at < other && at > room) || at > width - room;
  shape("text", { class: kind, x: at + (left ? -7 : 7), y, "text-anchor": left ? "end" : "start" }, svg, words);
}

function anchor(at, width) {
  return at < 20 ? "start" : at > width - 20 ? "end" : "middle";
}

function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => power * m >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(Number((i * step).toPrecision(6)));
  return found;
}

// Two bars on one scale: what the class expects, and within it what was found.
export function drawBars(place, neuron, low, high) {
  const svg = shape("svg", { viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" }, place);
  const x = (value) => ((value - low) / (high - low)) * 100;
  const bar = (value, kind, y, height) =>
    shape("rect", { class: kind, x: Math.min(x(0), x(value)), y, width: Math.abs(x(value) - x(0)), height }, svg);
  bar(neuron.expected, "expected", 0, 20);
  bar(neuron.found, "found", 6, 8);
  shape("line", { class: "axis", x1: x(0), x2: x(0), y1: -3, y2: 23, "vector-effect": "non-scaling-stroke" }, svg);
}
