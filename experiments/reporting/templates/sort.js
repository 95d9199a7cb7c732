// Tables that sort: a click on a heading sorts up, a second one down, a third one restores the
// order that the page came in. What is no number in a column of numbers stands last either way.
(() => {
  "use strict";
  const NUMBER = /^[^\d+\-.]*([+-]?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?)/i;

  function number(text) {
    if (/^[a-z–]/i.test(text)) return null; // "failed: ...", "seed 3", "–"
    const found = NUMBER.exec(text.replace(/\u2212/g, "-"));
    return found ? Number(found[1].replace(/,/g, "")) : null;
  }

  function compare(a, b, down) {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
    return down ? -order : order;
  }

  function sort(table, heading, original) {
    const states = { ascending: "descending", descending: null };
    const before = heading.getAttribute("aria-sort");
    const after = before === null ? "ascending" : states[before];
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    if (after !== null) heading.setAttribute("aria-sort", after);
    const column = heading.cellIndex;
    const read = heading.classList.contains("text") ? (text) => text || null : number;
    const keyed = original.map((row) => [read(row.cells[column].textContent.trim()), row]);
    if (after !== null) keyed.sort((a, b) => compare(a[0], b[0], after === "descending"));
    table.tBodies[0].append(...keyed.map((pair) => pair[1]));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const original = [...table.tBodies[0].rows];
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "Sort";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading, original));
      heading.append(button);
    }
  }
})();
