"use strict";
// Text from the run reaches the page as text only: textContent, attributes, and `plain` for plotly, which reads markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const root = document.documentElement;
  const darkSystem = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;

  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");
  const number = (value) => {
    const size = Math.abs(value);
    const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : String(+value.toPrecision(5));
    return text.replace("-", "\u2212");
  };

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  // ---- tables

  function showTable() {
    const metric = find("metric"), spectrum = find("spectrum");
    if (!metric) return;
    for (const table of document.querySelectorAll(".metric")) {
      const same = table.dataset.metric === metric.value && (!spectrum || table.dataset.spectrum === spectrum.value);
      table.hidden = !same && !printing;
    }
  }

  const heads = (table) => table.tHead.rows[table.tHead.rows.length - 1].cells; // groups of sets stand above them

  function sortBy(table, column, ascending) {
    const key = (row) => {
      const cell = row.children[column];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
    const rows = [...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b)) * (ascending ? 1 : -1));
    table.tBodies[0].append(...rows);
    [...heads(table)].forEach((cell, place) => {
      if (place === column) cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
  }

  function makeSortable(table) {
    [...heads(table)].forEach((cell, column) => {
      const button = make("button", { type: "button" }, cell.textContent);
      button.addEventListener("click", () => sortBy(table, column, cell.getAttribute("aria-sort") === "descending"));
      cell.replaceChildren(button);
    });
  }

  // ---- what is chosen

  const detector = () => data.detectors[find("detector").selectedIndex];
  const place = () => Number(find("slider").value);
  const other = () => (find("set") ? find("set").selectedIndex + 1 : null);
  const threshold = () => detector().thresholds[place()];

  function chooseDetector() {
    const slider = find("slider");
    slider.max = detector().thresholds.length - 1;
    slider.value = detector().marked;
    find("mark").value = detector().marked;
    draw();
    showPictures();
  }

  function summarise() {
    const { flagged, wrong } = detector(), at = place();
    const id = data.sets[0], alarms = flagged[0][at];
    const value = find("threshold-value");
    value.textContent = number(threshold());
    value.value = String(threshold());
    const sentences = [`Flagged: ${percent(alarms, id.size)} of ID (false alarms)`];
    const set = other() === null ? null : data.sets[other()];
    if (set) sentences.push(`${percent(flagged[other()][at], set.size)} of ${set.name}`);
    let text = `${sentences.join(", ")}.`;
    if (wrong && set && set.role === "ood") {
      const answered = id.size - alarms + set.size - flagged[other()][at];
      const mistakes = data.wrong - wrong[at] + set.size - flagged[other()][at];
      text += ` Of the answers to both that remain, ${percent(mistakes, answered)} are wrong.`;
    }
    find("summary").textContent = text;
    find("slider").setAttribute("aria-valuetext", `${number(threshold())}, ${percent(alarms, id.size)} of ID flagged`);
  }

  const ROLES = { id: "ID test", csid: "shifted ID", ood: "OOD" };

  function listFlagged() {
    const at = place();
    find("flagged").replaceChildren(
      ...data.sets.map((set, number) => {
        const count = detector().flagged[number][at];
        const bar = make("span", { class: set.role === "ood" ? "share" : "share id", "aria-hidden": "true" }, make("i"));
        bar.style.setProperty("--share", set.size ? count / set.size : 0);
        const role = set.group ? `${ROLES[set.role]}, ${set.group}` : ROLES[set.role];
        return make(
          "tr",
          number === other() ? { class: "current" } : {},
          make("th", { scope: "row" }, set.name),
          make("td", { class: "text" }, role),
          make("td", {}, percent(count, set.size)),
          make("td", {}, `${count} / ${set.size}`),
          make("td", {}, bar),
        );
      }),
    );
  }

  // ---- plots

  const light = () => printing || (root.dataset.theme ? root.dataset.theme === "light" : !darkSystem.matches);

  function colours() {
    if (printing) return { paper: "#ffffff", ink: "#1c1e21", soft: "#5a6069", line: "#dfe2e6", id: "#0072b2", ood: "#d55e00", quiet: "#b4b9c0" };
    const style = getComputedStyle(root);
    const names = ["paper", "ink", "soft", "line", "id", "ood", "quiet"];
    return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  function plot(id, traces, layout, text) {
    const c = colours(), element = find(id);
    const axis = (own) => ({
      tickfont: { size: 12 }, ticklabeloverflow: "allow",
      fixedrange: true, zeroline: false, gridcolor: c.line, linecolor: c.soft, showline: true, ticks: "outside",
      tickcolor: c.soft, ticklen: 4, automargin: true, ...own,
      title: { standoff: 8, font: { size: 13, color: c.soft }, text: own.title },
    });
    Plotly.react(element, traces, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: c.ink },
      margin: { l: 50, r: 20, t: 30, b: 45 }, dragmode: false, hovermode: "closest", showlegend: true,
      ...layout,
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false, ...layout.legend },
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    }, { displayModeBar: false, responsive: true });
    element.setAttribute("aria-label", text);
    find(`${id}-caption`).textContent = text;
  }

  function drawHistogram() {
    const c = colours(), set = data.sets[other() ?? 0], pair = detector().pairs[set.name];
    if (!pair) { find("histogram").parentElement.hidden = true; return; }
    const width = (pair.high - pair.low) / pair.id.length;
    const middles = pair.id.map((_, bin) => pair.low + (bin + 0.5) * width);
    const edges = pair.id.map((_, bin) => pair.low + bin * width).concat(pair.high);
    const share = (counts) => {
      const sum = counts.reduce((a, b) => a + b, 0);
      return counts.map((count) => (100 * count) / sum);
    };
    const outline = share(pair.other), top = 108 * detector().tallest;
    const far = [0, outline.length - 1].filter((bin) => outline[bin] > top); // a set far beyond the axis, in one bin
    const within = (value) => Math.min(Math.max(value, pair.low), pair.high);
    const at = within(threshold()), marked = within(detector().thresholds[detector().marked]);
    const beyond = threshold() < pair.low ? "\u2190 threshold" : threshold() > pair.high ? "threshold \u2192" : "threshold";
    const right = pair.high - at < 0.1 * (pair.high - pair.low);
    const upright = (x, line) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line });
    plot("histogram", [
      { type: "bar", name: plain(data.sets[0].name), x: middles, y: share(pair.id), width, marker: { color: c.id, opacity: 0.55, line: { width: 0 } },
        hovertemplate: "%{y:.1f} % of ID<extra></extra>" },
      { type: "scatter", mode: "lines", name: plain(set.name), x: edges, y: outline.concat(outline.at(-1)),
        line: { color: c.ood, width: 2.5, shape: "hv" }, hovertemplate: "%{y:.1f} %<extra></extra>" },
    ], {
      bargap: 0, margin: { l: 50, r: 20, t: 56, b: 45 }, legend: { y: 1.12 },
      xaxis: { title: "score (higher = more in-distribution)", range: [pair.low, pair.high], showgrid: false },
      yaxis: { title: "% of each set", range: [0, top] },
      shapes: [upright(marked, { color: c.soft, width: 1.5, dash: "dot" }), upright(at, { color: c.ink, width: 2, dash: "dash" })],
      annotations: [{ x: at, yref: "paper", y: 1, yanchor: "bottom", text: beyond, showarrow: false,
        xanchor: at - pair.low < 0.1 * (pair.high - pair.low) ? "left" : right ? "right" : "center" },
        ...far.map((bin) => ({ x: bin ? 0.99 : 0.01, xref: "paper", y: 0.99, yref: "paper", yanchor: "top", showarrow: false,
          xanchor: bin ? "right" : "left", font: { color: c.ood }, bgcolor: c.paper,
          text: `${outline[bin].toFixed(0)} % of ${plain(set.name)} ${bin ? "here or above" : "here or below"}` }))],
    }, `Scores of ${detector().label} on ${data.sets[0].name} (bars) and ${set.name} (line). Dashed: the threshold; dotted: the ${data.calibrated ? "calibrated one" : "one that the page began with"}. The outer bins hold what lies beyond; the axes are the same for every set.`);
  }

  function drawRoc() {
    if (!find("roc")) return;
    const c = colours(), at = place(), { pairs, flagged } = detector(), chosen = other();
    const traces = [];
    let text = `ROC curves of the OOD sets, in grey. ${data.sets[chosen].name} is ID data, so it has none.`;
    data.sets.forEach((set, number) => {
      if (set.role !== "ood" || number === chosen) return;
      const [x, y] = pairs[set.name].roc;
      traces.push({ x, y, mode: "lines", showlegend: false, line: { color: c.quiet, width: 1.25 },
        hovertemplate: `${plain(set.name)}<br>OOD accepted %{x:.1%}, ID accepted %{y:.1%}<extra></extra>` });
    });
    const set = data.sets[chosen];
    if (set.role === "ood") {
      const pair = pairs[set.name];
      traces.push({ x: pair.roc[0], y: pair.roc[1], mode: "lines", name: plain(set.name), line: { color: c.ood, width: 2.75 },
        hovertemplate: "OOD accepted %{x:.1%}, ID accepted %{y:.1%}<extra></extra>" });
      traces.push({ x: [1 - flagged[chosen][at] / set.size], y: [1 - flagged[0][at] / data.sets[0].size], mode: "markers",
        name: "threshold", cliponaxis: false, marker: { color: c.ink, size: 10 }, hovertemplate: "threshold<extra></extra>" });
      text = `ROC of ${detector().label}: AUROC ${(100 * pair.auroc).toFixed(2)} % on ${set.name}; the other sets in grey.`;
    }
    plot("roc", traces, {
      xaxis: { title: "OOD accepted", range: [-0.01, 1.01], tickformat: ".0%", dtick: 0.2 },
      yaxis: { title: "ID accepted", range: [-0.01, 1.01], tickformat: ".0%", dtick: 0.2 },
    }, text);
  }

  function drawRisk() {
    if (!find("risk")) return;
    const c = colours(), at = place(), { risk, aurc, pairs, flagged, wrong, label } = detector();
    const id = data.sets[0], chosen = other(), set = chosen === null ? null : data.sets[chosen];
    const hovertemplate = "answered %{x:.1%}, wrong %{y:.1%}<extra></extra>";
    const traces = [{ x: risk[0], y: risk[1], mode: "lines", name: plain(`${id.name} alone`), line: { color: c.id, width: 2.5, dash: "dot" }, hovertemplate }];
    let text = `Risk and coverage of ${label}: AURC ${aurc.toFixed(4)} on ID alone`;
    const pair = set && pairs[set.name];
    if (pair && pair.risk) {
      traces.push({ x: pair.risk[0], y: pair.risk[1], mode: "lines", name: plain(`with ${set.name}`), line: { color: c.ood, width: 2.75 }, hovertemplate });
      const answered = id.size - flagged[0][at] + set.size - flagged[chosen][at];
      const mistakes = data.wrong - wrong[at] + set.size - flagged[chosen][at];
      if (answered) {
        traces.push({ x: [answered / (id.size + set.size)], y: [mistakes / answered], mode: "markers", name: "threshold",
          cliponaxis: false, marker: { color: c.ink, size: 10 }, hovertemplate });
      }
      text += `, ${pair.aurc.toFixed(4)} with ${set.name}, about which every answer is wrong`;
    }
    plot("risk", traces, {
      xaxis: { title: "inputs answered", range: [-0.01, 1.01], tickformat: ".0%", dtick: 0.2 },
      yaxis: { title: "answers that are wrong", rangemode: "tozero", tickformat: ".0%" },
    }, `${text}. ${data.beginning}`);
  }

  function draw() {
    summarise();
    listFlagged();
    drawHistogram();
    if (other() !== null) drawRoc();
    drawRisk();
    judgePictures();
  }

  // ---- pictures

  function picture([number_, score, p]) {
    const { set, name, label, predicted, source } = data.pictures[number_];
    const truth = label === null ? "no label" : label;
    return make("li", {},
      make("img", { src: source, alt: `${name} of ${set}, ${truth}, taken for ${predicted}`, width: 96, height: 96, loading: "lazy" }),
      make("b", {}, truth),
      make("span", {}, `taken for ${predicted}`),
      make("span", {}, `score ${number(score)}`),
      p === null ? null : make("span", {}, `p-value ${+p.toPrecision(2)}`),
      make("span", { class: "verdict", "data-score": String(score) }),
    );
  }

  function showPictures() {
    const home = find("pictures");
    if (!home) return;
    const shown = data.shown[detector().label];
    home.className = "images";
    if (!shown) {
      const known = Object.keys(data.shown).join(", ");
      home.replaceChildren(make("p", {}, `This page has pictures for ${known}, and none for ${detector().label}. Another one comes first with: oodline report RUN --detector ${detector().label}`));
      return;
    }
    const parts = [make("p", {}, `As ${detector().label} sees them. The verdict is that of the threshold above.`)];
    for (const { name } of data.sets.flatMap((set) => (set.role === "id" ? set.name.split(" + ").map((name) => ({ name })) : [set]))) {
      if (!shown[name]) continue;
      parts.push(make("h3", {}, name));
      ["most OOD", "least OOD"].forEach((title, side) => {
        if (shown[name][side].length === 0) return;
        parts.push(make("div", { class: "strip" }, make("h4", {}, title), make("ul", {}, ...shown[name][side].map(picture))));
      });
    }
    home.replaceChildren(...parts);
    judgePictures();
  }

  function judgePictures() {
    for (const verdict of document.querySelectorAll(".verdict")) {
      const flagged = Number(verdict.dataset.score) < threshold();
      verdict.classList.toggle("flagged-one", flagged);
      verdict.textContent = flagged ? "flagged" : "accepted";
    }
  }

  // ---- theme, print, start

  function showTheme() {
    find("theme").textContent = light() ? "Dark theme" : "Light theme";
  }

  function whilePrinting(now) {
    printing = now;
    showTable();
    const before = root.dataset.theme;
    if (now) { root.dataset.shown = before ?? ""; root.dataset.theme = "light"; }
    else if (root.dataset.shown) root.dataset.theme = root.dataset.shown;
    else delete root.dataset.theme;
    draw();
  }

  find("theme").addEventListener("click", () => {
    root.dataset.theme = light() ? "dark" : "light";
    showTheme();
    draw();
  });
  darkSystem.addEventListener("change", () => { showTheme(); draw(); });
  addEventListener("beforeprint", () => whilePrinting(true));
  addEventListener("afterprint", () => whilePrinting(false));

  let waiting = false;
  find("slider").addEventListener("input", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  });
  find("reset").addEventListener("click", () => { find("slider").value = detector().marked; draw(); });
  find("detector").addEventListener("change", chooseDetector);
  find("set")?.addEventListener("change", draw);
  find("metric")?.addEventListener("change", showTable);
  find("spectrum")?.addEventListener("change", showTable);

  for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
  for (const element of document.querySelectorAll(".explore, #theme, #table-controls")) element.hidden = false;
  showTable();
  showTheme();
  chooseDetector();
})();
