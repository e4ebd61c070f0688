// Elements, tables that keep their rows, and buttons that ask twice. Whatever clients chose is set as text, never as HTML.

/** Make an element: properties, then children; a child that is null is left out. */
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
 * A button that acts at once, and does nothing when it is pressed again until that is done. It is not `disabled`
 * meanwhile, which would take the focus from it, and a dialog that closes could not give it back.
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

/** A button that asks once more before it acts. */
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

/** A table whose rows keep their place, focus and buttons while what they say changes. */
export class Table {
  /**
   * @param {{title: string, className?: string, show: (item: object, cell: HTMLElement) => void}[]} columns;
   *   `show` is called again for the same cell when the item has changed
   * @param {(item: object) => string} keyOf tells items apart
   * @param {string} nothing what is said of an empty list
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

/** A cell's text. */
export function text(value) {
  return (item, cell) => {
    const shown = value(item) ?? "";
    if (cell.textContent !== shown) cell.textContent = shown;
  };
}

/** A cell's element, made once for each row from the item that it first showed. */
export function once(create) {
  return (item, cell) => {
    if (!cell.firstChild) cell.append(create(item));
  };
}
