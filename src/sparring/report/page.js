"use strict";
// A chart's numbers on hover, tap or arrow keys, and tables sorted by a click on a heading.
// Without this script the page says the same, less comfortably.

const SVG = "http://www.w3.org/2000/svg";

const shown = (value) => String(Number(value.toPrecision(4)));

const element = (name, classes, parent) => {
  const made = document.createElementNS(SVG, name);
  made.setAttribute("class", classes);
  return parent.appendChild(made);
};

// --- Charts: data-curves = [{name, style, points: [[x on the drawing, y on it, x, y, what it says?]]}]

function readable(chart) {
  const curves = JSON.parse(chart.dataset.curves);
  const places = [...new Set(curves.flatMap((curve) => curve.points.map(([at]) => at)))].sort((a, b) => a - b);
  const box = chart.viewBox.baseVal;
  const readout = document.createElement("p");
  readout.className = "readout";
  readout.setAttribute("aria-hidden", "true"); // the slider says the same
  readout.textContent = "Point at the chart for its numbers.";
  chart.after(readout);
  const ruler = element("path", "ruler", chart);
  const dots = curves.map((curve) => element("circle", `line-${curve.style} spot`, chart));
  let current = places.length - 1;

  const nearest = (points, at) =>
    points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));

  const show = (index) => {
    current = Math.min(Math.max(index, 0), places.length - 1);
    const at = places[current];
    const found = curves.map((curve) => nearest(curve.points, at));
    ruler.setAttribute("d", `M${at} 12V${box.height - 38}`);
    found.forEach(([x, y], k) => {
      dots[k].setAttribute("cx", x);
      dots[k].setAttribute("cy", y);
      dots[k].setAttribute("r", 3);
    });
    const here = nearest(curves.flatMap((curve) => curve.points), at);
    const values = curves.map((curve, k) => found[k][4] ?? `${curve.name} ${shown(found[k][3])}`);
    readout.textContent = `${chart.dataset.x} ${shown(here[2])}: ${values.join(" · ")}`;
    chart.setAttribute("aria-valuenow", current);
    chart.setAttribute("aria-valuetext", readout.textContent);
  };

  const follow = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse()).x;
    show(places.reduce((best, place, k) => (Math.abs(place - at) < Math.abs(places[best] - at) ? k : best), 0));
  };
  chart.addEventListener("pointermove", follow);
  chart.addEventListener("pointerdown", follow);
  const slider = { role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": places.length - 1,
    "aria-valuenow": current, "aria-valuetext": "its last values; arrow keys tell the others" };
  for (const [name, value] of Object.entries(slider)) chart.setAttribute(name, value);
  chart.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (by) {
      event.preventDefault();
      show(current + by);
    }
  });
}

// --- Tables: a column's heading sorts the rows; with data-sort="columns" a row's sorts the columns

const value = (cell) => (cell.dataset.value === undefined ? NaN : Number(cell.dataset.value));

function before(a, b) {
  const [first, second] = [value(a), value(b)];
  if (Number.isNaN(first) || Number.isNaN(second)) {
    if (Number.isNaN(first) !== Number.isNaN(second)) return Number.isNaN(first) ? 1 : -1; // numbers first
    return a.textContent.localeCompare(b.textContent, "en", { numeric: true });
  }
  return first - second;
}

function sortable(table) {
  const rows = [...table.tBodies[0].rows];
  const byColumn = table.dataset.sort === "columns";
  const headings = byColumn ? rows.map((row) => row.cells[0]) : [...table.tHead.rows[0].cells];
  const lines = byColumn ? [...table.rows] : rows;
  const groups = []; // a row with those beneath it that it is compared with
  for (const row of rows) {
    if (row.classList.contains("reference") && groups.length) groups.at(-1).push(row);
    else groups.push([row]);
  }
  const original = byColumn ? lines.map((line) => [...line.cells]) : rows;

  const sort = (heading, k, order) => {
    headings.forEach((one) => one.removeAttribute("aria-sort"));
    if (order) heading.setAttribute("aria-sort", order);
    const sign = order === "descending" ? -1 : 1;
    if (byColumn) {
      const cells = [...heading.parentElement.cells];
      const key = original[lines.indexOf(heading.parentElement)];
      const places = [...cells.keys()].slice(1);
      if (order) places.sort((a, b) => sign * before(key[a], key[b]));
      lines.forEach((line, n) => line.append(...places.map((place) => original[n][place])));
    } else {
      const sorted = [...groups];
      if (order) sorted.sort(([a], [b]) => sign * before(a.cells[k], b.cells[k]));
      table.tBodies[0].append(...sorted.flat());
    }
  };

  headings.forEach((heading, k) => {
    if (heading.tagName !== "TH" || heading.parentElement.classList.contains("reference")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    const hint = heading.querySelector("small");
    button.append(...heading.childNodes);
    heading.append(button);
    const mark = document.createElement("span"); // says how it is sorted, beside the label
    mark.className = "mark";
    if (hint) hint.before(mark);
    else (button.querySelector("div") ?? button).append(mark);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null };
      const now = heading.getAttribute("aria-sort");
      sort(heading, k, now in next ? next[now] : "ascending");
    });
  });
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("svg[data-curves]").forEach(readable);
  for (const table of document.querySelectorAll("table")) {
    const counted = table.dataset.sort === "columns" ? table.rows[0].cells.length - 1 : table.tBodies[0].rows.length;
    if (counted > 1) sortable(table);
  }
});
