"use strict";

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
}

function compared(one, other) {
  return typeof one === "number" ? one - other : one.localeCompare(other, "en", { numeric: true });
}

function sortBy(table, head, status) {
  const column = head.cellIndex;
  const body = table.tBodies[0];
  const numeric = body.rows.length > 0 && typeof valueOf(body.rows[0], column) === "number";
  const first = numeric ? "descending" : "ascending";
  const second = numeric ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  const rows = Array.from(body.rows);
  rows.sort((a, b) => sign * compared(valueOf(a, column), valueOf(b, column)));
  body.append(...rows);
  for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", order);
  status.textContent = `Sorted by ${head.textContent.trim()}, ${order}.`;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const status = table.closest("section").querySelector("[role=status]");
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sortBy(table, button.closest("th"), status));
  }
}
