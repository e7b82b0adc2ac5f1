// Sorts tables of class prx-sortable by their columns. Each body carries its keys in data-keys and moves as one; without
// this script the table stands as it was made. A missing number comes last in either direction.
document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("table.prx-sortable").forEach(makeSortable));

function makeSortable(table) {
  const bodies = [...table.tBodies];
  const keys = new Map(bodies.map((body) => [body, JSON.parse(body.dataset.keys)]));
  const heads = [...table.tHead.rows[0].cells];
  const said = document.createElement("p");
  said.className = "prx-said";
  said.setAttribute("aria-live", "polite");
  table.parentElement.after(said);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      // better first: down for ↓ and for names, up for ↑ and for n
      const first = column === 1 || button.textContent.includes("↑") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sorted = [...bodies].sort((a, b) => compare(keys.get(a)[column], keys.get(b)[column], order === "ascending" ? 1 : -1));
      table.tBodies[0].before(...sorted);
      said.textContent = `Sorted by ${button.textContent}, ${order}.`;
    });
  });
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}
