// The table: as many rows as are seen are in the document, however many clients there are.

import { ago, bytes, duration } from "./format.js";

const COLUMNS = [
  ["client", "Client"],
  ["status", "Status"],
  ["lag", "Lag"],
  ["size", "Size"],
  ["generation", "Generation"],
  ["sync", "Last sync"],
  ["error", "Last error"],
];
/** Rows beyond the edges, so that scrolling does not show gaps. */
const MARGIN = 6;

const element = (tag, className, ...children) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
};

/** Points of a line through `values` in a box, the newest at its right edge. */
export function points(values, slots, width, height, most) {
  const step = width / (slots - 1);
  const start = width - step * (values.length - 1);
  const y = (value) => height - 1 - (Math.min(value, most) / most) * (height - 2);
  return Array.from(values, (value, i) => `${(start + i * step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
}

class Row {
  constructor(id) {
    this.name = element("span", "name");
    this.prefix = element("span", "prefix");
    this.status = element("span", "status");
    this.lag = element("span", "number");
    this.line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const spark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    spark.setAttribute("class", "spark");
    spark.setAttribute("viewBox", "0 0 80 20");
    spark.setAttribute("preserveAspectRatio", "none");
    spark.setAttribute("aria-hidden", "true");
    spark.append(this.line);
    this.size = element("span", "number");
    this.pending = element("span", "pending");
    this.generation = element("span", "mono");
    this.sync = element("span");
    this.error = element("span", "why");
    const cells = [
      element("div", "cell c-client", this.prefix, this.name),
      element("div", "cell c-status", this.status),
      element("div", "cell c-lag", this.lag, spark),
      element("div", "cell c-size", this.size, this.pending),
      element("div", "cell c-generation", this.generation),
      element("div", "cell c-sync", this.sync),
      element("div", "cell c-error", this.error),
    ];
    for (const cell of cells) cell.setAttribute("role", "gridcell");
    this.element = element("div", "line", ...cells);
    this.element.setAttribute("role", "row");
    this.element.id = id;
  }

  show(client, index, top, active, now) {
    const { data } = client;
    const lag = client.lag(now);
    this.client = client;
    this.element.hidden = false;
    this.element.style.transform = `translateY(${top}px)`;
    this.element.setAttribute("aria-rowindex", index + 2);
    this.element.setAttribute("aria-selected", active);
    this.element.dataset.status = data.status;
    text(this.name, data.clientId);
    this.name.title = data.dbPath;
    text(this.prefix, data.prefix ?? "");
    text(this.status, data.status);
    text(this.lag, duration(lag));
    this.lag.classList.toggle("late", lag > 5000);
    const peak = Math.max(0, ...client.history);
    const most = Math.max(1000, peak);
    this.element.classList.toggle("still", lag === 0 && peak === 0);
    this.line.setAttribute("points", points(client.history, client.lags.length, 80, 20, most));
    text(this.size, bytes(data.databaseBytes));
    text(this.pending, data.pendingBytes ? `${bytes(data.pendingBytes)} waiting` : "");
    text(this.generation, data.generation ?? "–");
    text(this.sync, ago(data.lastSyncAt, now));
    text(this.error, data.lastError ?? "");
    this.error.title = data.lastError ?? "";
  }
}

function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

export class Table {
  /** `order(column)` is called for a click on a head, `open(client)` for a row. */
  constructor(order, open) {
    this.grid = document.getElementById("grid");
    this.rows = document.getElementById("rows");
    this.clients = [];
    this.pool = [];
    this.active = -1;
    this.open = open;
    this.heads = COLUMNS.map(([column, label]) => {
      const button = element("button", "", label);
      button.type = "button";
      button.addEventListener("click", () => order(column));
      const head = element("div", `cell c-${column}`, button);
      head.setAttribute("role", "columnheader");
      return { column, head };
    });
    document.getElementById("heads").append(...this.heads.map(({ head }) => head));
    this.grid.setAttribute("aria-colcount", COLUMNS.length);
    this.grid.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(this.grid);
    this.rows.addEventListener("click", (event) => {
      const row = this.pool.find((row) => row.element.contains(event.target));
      if (row) this.choose(this.clients.indexOf(row.client), true);
    });
    this.grid.addEventListener("keydown", (event) => this.key(event));
  }

  /** The clients to show, in order. The active one stays active. */
  set(clients, order) {
    const active = this.clients[this.active];
    this.clients = clients;
    this.active = active ? clients.indexOf(active) : -1;
    this.grid.setAttribute("aria-rowcount", clients.length + 1);
    const column = order.replace("-", "");
    for (const { column: own, head } of this.heads) {
      const direction = order.startsWith("-") ? "ascending" : "descending";
      head.setAttribute("aria-sort", own === column ? direction : "none");
    }
    this.draw();
  }

  draw() {
    const height = this.rowHeight();
    const now = Date.now();
    this.rows.style.height = `${this.clients.length * height}px`;
    const seen = Math.ceil(this.grid.clientHeight / height) + 2 * MARGIN;
    const first = Math.max(0, Math.floor(this.grid.scrollTop / height) - MARGIN);
    const last = Math.min(this.clients.length, first + seen);
    while (this.pool.length < seen) {
      const row = new Row(`row-${this.pool.length}`);
      this.pool.push(row);
      this.rows.append(row.element);
    }
    let activeId = "";
    for (const row of this.pool) row.used = false;
    for (let index = first; index < last; index += 1) {
      // The same row for the same place, so that scrolling changes few of them.
      const row = this.pool[index % this.pool.length];
      const active = index === this.active;
      row.show(this.clients[index], index, index * height, active, now);
      row.used = true;
      if (active) activeId = row.element.id;
    }
    for (const row of this.pool) if (!row.used) row.element.hidden = true;
    if (activeId) this.grid.setAttribute("aria-activedescendant", activeId);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  rowHeight() {
    return Number.parseFloat(getComputedStyle(this.rows).getPropertyValue("--row"));
  }

  choose(index, opens) {
    if (index < 0 || index >= this.clients.length) return;
    this.active = index;
    const height = this.rowHeight();
    const room = this.grid.clientHeight - document.getElementById("heads").offsetHeight;
    const top = index * height;
    if (top < this.grid.scrollTop) this.grid.scrollTop = top;
    else if (top + height > this.grid.scrollTop + room) this.grid.scrollTop = top + height - room;
    this.draw();
    if (opens) this.open(this.clients[index]);
  }

  key(event) {
    if (event.target !== this.grid) return;
    const page = Math.max(1, Math.floor(this.grid.clientHeight / this.rowHeight()) - 2);
    const last = this.clients.length - 1;
    const to = {
      ArrowDown: this.active + 1,
      ArrowUp: Math.max(0, this.active - 1),
      PageDown: Math.min(last, this.active + page),
      PageUp: Math.max(0, this.active - page),
      Home: 0,
      End: last,
    }[event.key];
    if (to !== undefined) this.choose(to, false);
    else if (event.key === "Enter") this.choose(this.active, true);
    else return;
    event.preventDefault();
  }
}

export { element, text };
