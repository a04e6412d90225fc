// What is known of the clients: kept by name, searched, filtered and ordered.

/** Samples of the lag that are kept of each client, and how many milliseconds lie between them. */
export const SAMPLES = 60;
export const SAMPLE_MS = 1000;

/** What needs attention comes first. */
export const STATUSES = ["failing", "gapped", "refused", "missing", "paused", "waiting", "active"];

const nameOf = (data) => `${data.prefix ?? ""}\n${data.clientId}`;

class Client {
  constructor(data, now) {
    this.name = nameOf(data);
    this.lags = new Float32Array(SAMPLES);
    this.sampled = 0;
    this.update(data, now);
  }

  update(data, now) {
    // What was stored meanwhile had waited, too.
    this.peak = Math.max(this.peak ?? 0, data.waitedMs ?? 0);
    this.data = data;
    this.seenAt = now;
    this.rank = STATUSES.indexOf(data.status);
    this.text = [data.prefix, data.clientId, data.dbPath, data.lastError, data.generation]
      .filter(Boolean)
      .join("\n")
      .toLowerCase();
  }

  /** A lag grows by itself until something is stored. */
  lag(now) {
    const { replicationLagMs: lag, status } = this.data;
    return lag > 0 && status !== "missing" ? lag + (now - this.seenAt) : lag;
  }

  sample(now) {
    this.lags.copyWithin(0, 1);
    this.lags[SAMPLES - 1] = Math.max(this.lag(now), this.peak);
    this.peak = 0;
    this.sampled = Math.min(this.sampled + 1, SAMPLES);
  }

  /** The lags that were sampled, oldest first. */
  get history() {
    return this.lags.subarray(SAMPLES - this.sampled);
  }
}

const byName = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
/** The largest first; what is unknown last. */
const byText = (field) => (a, b) => {
  const [x, y] = [a.data[field] ?? "", b.data[field] ?? ""];
  return x < y ? 1 : x > y ? -1 : 0;
};
const ORDERS = {
  client: byName,
  status: (a, b) => a.rank - b.rank,
  lag: (a, b, now) => b.lag(now) - a.lag(now),
  size: (a, b) => (b.data.databaseBytes ?? -1) - (a.data.databaseBytes ?? -1),
  generation: byText("generation"),
  sync: byText("lastSyncAt"),
  error: (a, b) => b.data.syncErrors - a.data.syncErrors,
};

export class Clients {
  constructor() {
    this.all = new Map();
  }

  /** Takes a whole list over; samples of those that stay are kept. */
  replace(list) {
    const now = Date.now();
    const before = this.all;
    this.all = new Map();
    for (const data of list) {
      const client = before.get(nameOf(data));
      if (client) client.update(data, now);
      this.all.set(nameOf(data), client ?? new Client(data, now));
    }
  }

  put(data) {
    const known = this.all.get(nameOf(data));
    if (known) known.update(data, Date.now());
    else this.all.set(nameOf(data), new Client(data, Date.now()));
  }

  remove(data) {
    this.all.delete(nameOf(data));
  }

  get(name) {
    return this.all.get(name);
  }

  sample() {
    const now = Date.now();
    for (const client of this.all.values()) client.sample(now);
  }

  counts() {
    const counts = Object.fromEntries(STATUSES.map((status) => [status, 0]));
    for (const client of this.all.values()) counts[client.data.status] += 1;
    return counts;
  }

  /** Those that have every word of `search` and the status, in order; `order` is a column, the other way round after a minus. */
  select(search, status, order) {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    for (const client of this.all.values()) {
      if (status && client.data.status !== status) continue;
      if (words.every((word) => client.text.includes(word))) found.push(client);
    }
    const now = Date.now();
    const column = order.replace("-", "");
    const sign = order.startsWith("-") ? -1 : 1;
    const first = ORDERS[column];
    return found.sort(
      (a, b) => sign * first(a, b, now) || ORDERS.lag(a, b, now) || byName(a, b),
    );
  }
}
