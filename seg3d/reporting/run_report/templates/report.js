"use strict";
(() => {
  const text = (row, column) => row.cells[column].textContent.trim();

  // a cell's number, NaN where it is undefined; cells without data-value are words
  const number = (row, column) => {
    const value = row.cells[column].dataset.value;
    return value === "" ? NaN : Number(value);
  };

  const compare = (column, words, sign) => (a, b) => {
    if (words) return sign * text(a, column).localeCompare(text(b, column), "en", { numeric: true });
    const [x, y] = [number(a, column), number(b, column)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // undefined stays last
    return x === y ? 0 : sign * (x < y ? -1 : 1);
  };

  const sort = (table, heading) => {
    const headings = [...table.tHead.rows[0].cells];
    const column = headings.indexOf(heading);
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const words = rows.length > 0 && rows[0].cells[column].dataset.value === undefined;
    rows.sort(compare(column, words, ascending ? 1 : -1));
    body.append(...rows);
    headings.forEach((each) => each.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  };

  document.querySelectorAll("table.sortable").forEach((table) => {
    table.tHead.addEventListener("click", (event) => {
      const heading = event.target.closest("th");
      if (heading && event.target.closest("button")) sort(table, heading);
    });
  });

  // shown by a tracking server the page stands alone: the pages beside it are not there
  if (!["file:", "http:", "https:"].includes(location.protocol)) {
    document.querySelectorAll("th.case a").forEach((link) => link.replaceWith(link.textContent));
  }

  // paper has nothing to click on
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.printed:not([open])")];
    opened.forEach((each) => { each.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((each) => { each.open = false; }));
})();
