"use strict";

// Charts: Vega-Lite in place of the still pictures, as wide as their place.
const given = JSON.parse(document.getElementById("charts").textContent);
const narrow = matchMedia("(max-width: 40rem)");
const drawn = new Map();

function forWidth(spec) {
  if (!narrow.matches) return spec;
  const params = spec.params.map((p) => (p.name === "letters" ? { ...p, value: 20 } : p));
  return { ...spec, params };
}

async function draw(name) {
  const place = document.getElementById(`chart-${name}`);
  const axis = { ...given.config.axis, ...(narrow.matches && { labelLimit: 130, labelFontSize: 11 }) };
  const made = document.createElement("div");
  place.append(made);
  const result = await vegaEmbed(made, forWidth(given.specs[name]), {
    mode: "vega-lite",
    ast: true, // expressions are interpreted: the page's policy forbids to evaluate them
    actions: false,
    renderer: "svg",
    config: { ...given.config, axis },
    tooltip: { disableDefaultStyle: true, theme: "page" },
  });
  if (drawn.has(name)) drawn.get(name).finalize();
  drawn.set(name, result);
  for (const old of [...place.children]) if (old !== made) old.remove();
}

async function drawAll() {
  delete document.documentElement.dataset.drawn;
  for (const name of Object.keys(given.specs)) await draw(name);
  document.documentElement.dataset.drawn = "all";
}

// Tables: a click on a header sorts by it, and once more the other way round.
const order = new Intl.Collator("en", { numeric: true });

function valueOf(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value === undefined) return cell.textContent.trim();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function compare(one, other) {
  if (one === null || other === null) return (one === null) - (other === null);
  return typeof one === "number" && typeof other === "number" ? one - other : order.compare(one, other);
}

function sort(table, header) {
  const column = header.cellIndex;
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
  rows.sort(([a], [b]) => {
    const found = compare(a, b);
    return descending && a !== null && b !== null ? -found : found; // what is missing stays last
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function search(table) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  label.className = "find";
  input.type = "search";
  label.append("Find: ", input);
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of table.tBodies[0].rows)
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  (table.closest(".scroll") ?? table).before(label);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, header));
    header.append(button);
  }
  if (table.tBodies[0].rows.length > 8) search(table);
}

// Paper shows what is folded away.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const part of folded) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of folded) part.open = false;
});

narrow.addEventListener("change", drawAll);
drawAll();
