"use strict";
// Pages: one at a time, the one that holds what the address points at.
const pages = [...document.querySelectorAll("[data-page]")];
function show() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const page = target?.closest("[data-page]") ?? pages[0];
  const fold = target?.closest("details");
  if (fold) fold.open = true;
  for (const other of pages) other.classList.toggle("current", other === page);
  for (const link of document.querySelectorAll("nav.pages a")) {
    if (link.hash === "#" + page.id) {
      link.setAttribute("aria-current", "page");
      const bar = link.closest("ul");
      bar.scrollLeft = link.offsetLeft - (bar.clientWidth - link.offsetWidth) / 2;
    } else link.removeAttribute("aria-current");
  }
  if (target && target !== page) target.scrollIntoView(); else scrollTo(0, 0);
}
if (document.body.classList.contains("pages")) {
  document.body.classList.add("paged");
  addEventListener("hashchange", show);
  show();
}
// Tables: a click on a head sorts by it, a second one turns the order round.
const text = cell => cell.dataset.key ?? cell.textContent.trim();
const number = key => key === "–" || key === "" ? NaN : Number(key.replace("−", "-"));
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map(row => [text(row.cells[column]), row]);
    rows.sort(([a], [b]) => {
      const missing = (a === "–") - (b === "–");
      if (missing) return missing;  // what is missing comes last either way
      const x = number(a), y = number(b);
      const by = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
      return down ? -by : by;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}
