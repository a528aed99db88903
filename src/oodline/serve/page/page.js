// The page of `oodline serve`: send an image, show what the guard says of it.

import { drawBars, drawHistogram, short } from "./charts.js";

const at = (id) => document.getElementById(id);
const say = (id, text) => { at(id).textContent = text; };
const SHOWN = 3; // training images of a neuron
const show = (id, shown = true) => { at(id).hidden = !shown; };

let token = "";
let info = null;
let what = "image"; // what the service judges
let waiting = null; // what to send again once there is a token
let current = null; // aborts the request that a newer one replaces
let drawn = null;

class Refusal extends Error {
  constructor(problem) {
    super(problem.title);
    this.problem = problem;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer, document;
  try {
    answer = await fetch(path, { ...options, headers });
    document = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({
      title: "The service did not answer",
      detail: "It cannot be reached, or the connection broke off.",
      remedy: "See whether it runs, and try again.",
    });
  }
  if (!answer.ok) throw new Refusal(document);
  return document;
}

async function begin() {
  try {
    info = await ask("v1/info");
  } catch (error) {
    refuse(error);
    return;
  }
  show("token", false);
  say("promise", info.promise.sentence);
  if (info.limits.formats.includes("JSON")) what = "text";
  show("drop", what === "image");
  show("write", what === "text");
  say("hint", `PNG, JPEG, WebP or BMP, up to ${Math.round(info.limits.max_body / 2 ** 20)} MB`);
  say("about", `oodline ${info.version}, detector ${info.detector.name}${info.detector.paper ? `: ${info.detector.paper}` : ""}`);
  if (waiting) judge(waiting);
}

async function judge(file) {
  waiting = file;
  current?.abort();
  const mine = (current = new AbortController());
  if (what === "image") preview(file);
  at("answer").setAttribute("aria-busy", "true");
  say("status", `Judging the ${what}.`);
  try {
    if (!info) await begin();
    if (!info || mine.signal.aborted) return;
    const body = { method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" }, signal: mine.signal };
    const answer = info.explains ? await ask("v1/explain", body) : (await ask("v1/predict", body)).verdicts[0];
    const histogram = info.promise.by === "predicted" ? await ask(`v1/histogram?label=${answer.label}`) : info.histogram;
    if (!mine.signal.aborted) tell(answer, histogram);
  } catch (error) {
    if (!mine.signal.aborted) refuse(error);
  } finally {
    if (mine === current) at("answer").setAttribute("aria-busy", "false");
  }
}

function preview(file) {
  const image = at("preview");
  if (image.src) URL.revokeObjectURL(image.src);
  image.onload = () => image.classList.toggle("tiny", image.naturalWidth < 100);
  image.onerror = () => { image.hidden = true; };
  image.src = URL.createObjectURL(file);
  image.alt = file.name ? `The image that was sent: ${file.name}` : "The image that was sent";
  image.hidden = false;
  at("drop").classList.add("chosen");
}

function refuse(error) {
  const problem = error instanceof Refusal ? error.problem : { title: "The page failed", detail: String(error), remedy: "Reload it." };
  for (const id of ["idle", "verdict", "scores", "explanation"]) show(id, false);
  drawn = null;
  if (problem.status === 401) {
    say("token-note", problem.detail);
    show("token-note", Boolean(token));
    show("token");
    show("idle");
    at("secret").focus();
    say("status", `${problem.title}. ${problem.detail}`);
    return;
  }
  say("problem-title", problem.title);
  say("problem-detail", problem.detail);
  say("problem-remedy", problem.remedy);
  show("problem");
  say("status", `${problem.title}. ${problem.detail} ${problem.remedy}`);
}

const named = (label, name) => (label < 0 ? `a class for each ${what === "image" ? "pixel" : "token"}` : name === null ? `class ${label}` : `“${name}”`);

function tell(verdict, histogram) {
  waiting = null;
  if (verdict.rows === 0) {
    refuse(new Refusal({ title: "Nothing to judge", detail: `This ${what} has no part that the guard judges.`, remedy: `Send another ${what}.` }));
    return;
  }
  show("idle", false);
  show("problem", false);
  const ood = verdict.is_ood, name = verdict.labels
    ? verdict.labels.map((label, i) => named(label, verdict.label_names && verdict.label_names[i])).join(", ") || "no label"
    : named(verdict.label, verdict.class_name);
  at("verdict").classList.toggle("ood", ood);
  say("mark", ood ? "!" : "✓");
  say("decision-words", ood ? "Flagged as out-of-distribution" : "Accepted as in-distribution");
  say("says", ood ? `The classifier says ${name}. Its score is unusual among held-out ${what}s: do not act on the class.`
    : `The classifier says ${name}. Its score is usual among held-out ${what}s; the class may still be wrong.`);
  say("p-value", short(verdict.p_value));
  say("score", short(verdict.score));
  say("threshold", short(verdict.threshold));
  show("verdict");
  show("scores");
  drawn = { histogram, verdict };
  redraw();
  const rate = info.promise.false_alarm, whom = info.promise.by === "predicted" ? `held-out ${what}s of ${name}` : `held-out ${what}s`;
  const caption = `p-value ${short(verdict.p_value)}: ${percent(verdict.p_value)} of the ${whom} score this low or lower (the stronger bars), this one ` +
    `counted among them. ${what === "image" ? "An image" : "A text"} is flagged at ${short(rate)} or below. A higher score is more in-distribution.`;
  say("histogram-caption", caption);
  at("histogram").setAttribute("aria-label", `Histogram of the scores of held-out ${what}s from ${short(histogram.edges[0])} to ` +
    `${short(histogram.edges.at(-1))}; threshold at ${short(verdict.threshold)}, this ${what} at ${short(verdict.score)}.`);
  likely(verdict.classes);
  explain(verdict);
  say("status", `${at("decision-words").textContent}. ${at("says").textContent} p-value ${short(verdict.p_value)}.`);
}

function percent(share) {
  return `${Number((100 * share).toPrecision(2))} %`;
}

function redraw() {
  if (drawn) drawHistogram(at("histogram"), drawn.histogram, drawn.verdict);
}

function explain(answer) {
  show("explanation", Boolean(answer.missing));
  if (!answer.missing) return;
  say("explanation-title", `Why: ${named(answer.predicted_class, answer.predicted_class_name)} and what speaks for it`);
  at("sentences").replaceChildren(...answer.sentences.map((sentence) => {
    const item = document.createElement("li");
    item.textContent = sentence;
    return item;
  }));
  show("pictures", Boolean(answer.pictures));
  for (const [key, words] of [["evidence", "what speaks for the class"], ["missing", "places that lack what is missing"], ["unexpected", "places of the unexpected"]]) {
    const picture = at(`${key}-picture`), source = answer.pictures?.[key];
    picture.parentElement.hidden = !source;
    if (source) picture.src = source;
    else picture.removeAttribute("src");
    picture.alt = source ? `The image as the classifier sees it, with ${words} in colour` : "";
  }
  const all = [...answer.missing, ...answer.unexpected].flatMap((n) => [n.expected, n.found]);
  const low = Math.min(0, ...all), high = Math.max(0, ...all);
  list("missing", answer.missing, low, high);
  list("unexpected", answer.unexpected, low, high);
}

function list(id, neurons, low, high) {
  if (!neurons.length) {
    say(id, "none");
    return;
  }
  const images = neurons.some((n) => n.samples.length);
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  const columns = ["neuron", "", "expected", "found", ...(images ? ["images"] : [])];
  for (const name of columns) {
    const cell = document.createElement(name ? "th" : "td");
    if (name) cell.scope = "col";
    cell.textContent = name;
    if (name === "images") cell.className = "images";
    head.append(cell);
  }
  const body = table.createTBody();
  for (const neuron of neurons) {
    const row = body.insertRow();
    const number = document.createElement("th");
    number.scope = "row";
    number.textContent = neuron.neuron;
    row.append(number);
    const bars = row.insertCell();
    bars.className = "bars";
    drawBars(bars, neuron, low, high === low ? low + 1 : high);
    for (const value of [neuron.expected, neuron.found]) row.insertCell().textContent = value.toFixed(2).replace("-", "−");
    if (images) {
      const cell = row.insertCell();
      cell.className = "images";
      const pictures = neuron.samples.filter((sample) => sample.picture).slice(0, SHOWN);
      if (pictures.length) cell.append(...pictures.map(thumbnail));
      else cell.textContent = neuron.samples.slice(0, SHOWN).map((sample) => sample.index).join(", ");
    }
  }
  at(id).replaceChildren(table);
}

function thumbnail(sample) {
  const image = document.createElement("img");
  image.src = sample.picture;
  image.alt = `Training image ${sample.index}`;
  image.title = `${image.alt}, activation ${short(sample.activation)}`;
  return image;
}

function likelihood(share) {
  return share > 0.995 ? "> 99 %" : share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`;
}

function likely(classes) {
  show("classes", Boolean(classes));
  at("classes").replaceChildren(...(classes ?? []).map((one) => {
    const item = document.createElement("li"), name = document.createElement("span"), bar = document.createElement("meter");
    const share = document.createElement("span");
    name.textContent = one.name ?? `class ${one.label}`;
    share.textContent = likelihood(one.probability);
    bar.value = one.probability;
    bar.setAttribute("aria-hidden", "true");
    item.append(name, bar, share);
    return item;
  }));
}

function first(files) {
  return [...(files ?? [])].find((file) => file.size || file.type);
}

at("file").addEventListener("change", (event) => {
  const file = first(event.target.files);
  if (file) judge(file);
  event.target.value = ""; // so that the same file may be chosen again
});

at("write").addEventListener("submit", (event) => {
  event.preventDefault();
  judge(new Blob([JSON.stringify({ texts: [at("text").value] })], { type: "application/json" }));
});

addEventListener("paste", (event) => {
  if (what === "text") return;
  const file = first(event.clipboardData?.files);
  if (file) judge(file);
});

// the whole window takes a drop: a near miss must not make the browser leave the page
let depth = 0;
addEventListener("dragenter", () => at("drop").classList.toggle("over", ++depth > 0));
addEventListener("dragleave", () => at("drop").classList.toggle("over", --depth > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  at("drop").classList.remove("over");
  if (what === "text") return;
  const file = first(event.dataTransfer?.files);
  if (file) judge(file);
});

at("token").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("secret").value;
  begin();
});

new ResizeObserver(redraw).observe(at("histogram"));
begin();
