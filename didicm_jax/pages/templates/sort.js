for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach(each => each.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const compare = (a, b) => {
      const [x, y] = [a.cells[column], b.cells[column]];
      if (x.dataset.value === undefined)
        return sign * x.textContent.localeCompare(y.textContent, "en", {numeric: true});
      const [p, q] = [x.dataset.value, y.dataset.value];
      // What has no number stays last.
      return p === "" || q === "" ? (p === "") - (q === "") : sign * (p - q);
    };
    body.append(...[...body.rows].sort(compare));
  }));
  const field = table.closest("section").querySelector("input[type=search]");
  if (!field) continue;
  const rows = [...body.rows], names = rows.map(row => row.cells[0].textContent.toLowerCase());
  field.addEventListener("input", () => {
    const word = field.value.toLowerCase();
    rows.forEach((row, k) => { row.hidden = !names[k].includes(word); });
    field.closest(".filter").querySelector("output").textContent =
      `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
  });
}
