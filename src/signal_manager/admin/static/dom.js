// Elements, tables that keep their rows, and buttons that ask twice. Text from clients never becomes HTML.

/** Make an element with properties and children; null children are left out. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria") || key === "role") element.setAttribute(key.replace("aria", "aria-").toLowerCase(), value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/**
 * A button that acts at once, and ignores clicks until the action is done. It is not `disabled` meanwhile: that would
 * take the focus from it, and a dialog that closes could not give the focus back.
 */
export function button(label, act, properties = {}) {
  const element = make("button", { type: "button", textContent: label, ...properties });
  element.addEventListener("click", async () => {
    if (element.ariaDisabled) return;
    element.ariaDisabled = "true";
    try {
      await act();
    } finally {
      element.ariaDisabled = null;
    }
  });
  return element;
}

/** A button that acts on the second click; the first one asks. */
export function dangerous(label, question, act, properties = {}) {
  let timer = null;
  const calm = () => {
    clearTimeout(timer);
    timer = null;
    element.textContent = label;
    element.classList.remove("sure");
  };
  const element = button(
    label,
    async () => {
      if (timer === null) {
        element.textContent = question;
        element.classList.add("sure");
        timer = setTimeout(calm, 4000);
        return;
      }
      calm();
      await act();
    },
    { className: "danger", ...properties },
  );
  element.addEventListener("blur", calm);
  return element;
}

/** A table whose rows keep their place, focus and buttons while their content changes. */
export class Table {
  /**
   * @param {{title: string, className?: string, show: (item: object, cell: HTMLElement) => void}[]} columns;
   *   `show` is called again for the same cell when the item has changed
   * @param {(item: object) => string} keyOf tells items apart
   * @param {string} nothing the text in place of an empty list
   */
  constructor(parent, columns, keyOf, nothing) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.rows = new Map();
    const head = make("tr", {}, ...columns.map(({ title, className = "" }) => make("th", { textContent: title, className, scope: "col" })));
    this.body = make("tbody");
    this.table = make("table", {}, make("thead", {}, head), this.body);
    this.nothing = make("p", { className: "empty", textContent: nothing });
    this.more = make("button", { type: "button", className: "more", textContent: "Show more" });
    parent.append(this.table, this.nothing, this.more);
    this.show([], false);
  }

  show(items, hasMore) {
    const gone = new Set(this.rows.keys());
    items.forEach((item, index) => {
      const key = this.keyOf(item);
      gone.delete(key);
      if (!this.rows.has(key)) {
        this.rows.set(key, make("tr", {}, ...this.columns.map(({ className = "" }) => make("td", { className }))));
      }
      const row = this.rows.get(key);
      this.columns.forEach(({ show }, column) => show(item, row.cells[column]));
      if (this.body.rows[index] !== row) this.body.insertBefore(row, this.body.rows[index] ?? null);
    });
    for (const key of gone) {
      this.rows.get(key).remove();
      this.rows.delete(key);
    }
    this.table.hidden = !items.length;
    this.nothing.hidden = items.length > 0;
    this.more.hidden = !hasMore;
  }
}

/** Return a column's `show` that sets the cell's text. */
export function text(value) {
  return (item, cell) => {
    const shown = value(item) ?? "";
    if (cell.textContent !== shown) cell.textContent = shown;
  };
}

/** Return a column's `show` that makes the cell's element once, from the row's first item. */
export function once(create) {
  return (item, cell) => {
    if (!cell.firstChild) cell.append(create(item));
  };
}
