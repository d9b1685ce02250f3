// A table that is kept up to date row by row, so that focus and selection stay. All content goes in as text.

/** Makes an element with properties, data attributes and children (elements or text). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(element.dataset, value);
    else if (name.startsWith("aria-") || name === "role" || name === "scope") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Sets text only where it differs: a screen reader is told once. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * columns: {title, kind: "number"|"wide"|"name"|"", sort, cell(row) -> text or element, same(a, b)}.
 * key(row) names a row; onSort(name) is called by a click on a heading that can be sorted by.
 */
export class Table {
  constructor(parent, caption, columns, key, onSort) {
    this.columns = columns;
    this.key = key;
    this.rows = new Map();
    this.caption = make("caption", { textContent: caption });
    this.headings = columns.map((column) => {
      const heading = make("th", { scope: "col", className: column.kind ?? "" });
      if (column.sort) {
        const button = make("button", { type: "button", textContent: column.title });
        button.addEventListener("click", () => onSort(column.sort));
        heading.append(button);
      } else heading.textContent = column.title;
      return heading;
    });
    this.body = make("tbody");
    this.more = make("p", { className: "none" });
    const table = make("table", {}, this.caption, make("thead", {}, make("tr", {}, ...this.headings)), this.body);
    this.scroll = make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": caption }, table);
    parent.replaceChildren(this.scroll, this.more);
  }

  /** Marks what the rows are sorted by. */
  sorted(by, reverse) {
    this.columns.forEach((column, at) => {
      if (!column.sort) return;
      const is = column.sort === by;
      const up = column.up ? !reverse : reverse;
      this.headings[at].setAttribute("aria-sort", is ? (up ? "ascending" : "descending") : "none");
      write(this.headings[at].firstChild, column.title + (is ? (up ? " ▲" : " ▼") : ""));
    });
  }

  /** Shows these rows, in this order. */
  show(rows, caption) {
    if (caption !== undefined) write(this.caption, caption);
    const focused = document.activeElement;
    const known = new Map();
    rows.forEach((row, at) => {
      const key = this.key(row);
      const line = this.rows.get(key) ?? this.line();
      known.set(key, line);
      this.columns.forEach((column, index) => this.fill(line.cells[index], column.cell(row)));
      if (this.body.children[at] !== line) this.body.insertBefore(line, this.body.children[at] ?? null);
    });
    for (const [key, line] of this.rows) if (known.get(key) !== line) line.remove();
    this.rows = known;
    if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  }

  line() {
    return make("tr", {}, ...this.columns.map((column) => make("td", { className: column.kind ?? "" })));
  }

  // An element says by data-is what it shows; it is replaced when that changes.
  fill(cell, content) {
    if (content instanceof Node) {
      if (cell.firstChild?.dataset?.is !== content.dataset.is) cell.replaceChildren(content);
    } else write(cell, content);
  }
}
