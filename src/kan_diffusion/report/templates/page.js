"use strict";
// Tables: a click on a head sorts by it, a second one turns the order round.
const MISSING = "–";
function sortKey(cell) {
  const text = cell.firstChild?.textContent.trim() ?? "";
  const number = text.replace("−", "-").replaceAll(",", "").match(/^<? ?([+-]?[\d.]+(e[+-]?\d+)?)/);
  return number && !cell.matches(".text, th") ? Number(number[1]) : cell.textContent.trim();
}
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map(row => [sortKey(row.cells[column]), row]);
    rows.sort(([a], [b]) => {
      const missing = (a === MISSING || a === "") - (b === MISSING || b === "");
      if (missing) return missing;  // what is missing comes last either way
      const numbers = typeof a === "number" && typeof b === "number";
      const order = numbers ? a - b : String(a).localeCompare(String(b));
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}
// A fold that an address points into opens.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target?.closest("details");
  if (fold) fold.open = true;
}
addEventListener("hashchange", unfold);
unfold();
