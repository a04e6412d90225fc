// One client: everything that is known of it, its lag, and what can be done.

import { SAMPLES, SAMPLE_MS } from "./clients.js";
import { bytes, count, duration, moment } from "./format.js";
import { ask, json, pathOf, token } from "./source.js";
import { element, points, text } from "./table.js";

const at = (id) => document.getElementById(id);
const WIDTH = 300;
const HEIGHT = 80;

export class Detail {
  /** `changed(client)` is called after something was done, to ask for the client anew. */
  constructor(changed) {
    this.dialog = at("detail");
    this.changed = changed;
    this.client = null;
    this.dialog.addEventListener("close", () => (this.client = null));
    this.dialog.addEventListener("click", (event) => {
      const { target } = event;
      if (target === this.dialog || target.closest("[data-close]")) this.dialog.close();
    });
    at("sync").addEventListener("click", () => this.wait("sync", "Synced"));
    at("snapshot").addEventListener("click", () => this.wait("snapshot", "Snapshot stored"));
    at("pause").addEventListener("click", () => this.pause());
    at("download").addEventListener("submit", (event) => {
      event.preventDefault();
      this.download();
    });
  }

  show(client) {
    this.client = client;
    this.say("");
    at("moment").value = "";
    this.draw();
    this.dialog.showModal();
    this.tellMoments(client);
  }

  draw() {
    if (!this.client) return;
    const { data } = this.client;
    const now = Date.now();
    text(at("detail-name"), data.prefix ? `${data.prefix}/${data.clientId}` : data.clientId);
    text(at("detail-path"), data.dbPath);
    const error = at("detail-error");
    error.hidden = !data.lastError;
    text(error, data.lastError ?? "");
    text(at("detail-lag"), duration(this.client.lag(now)));
    this.chart();
    const paused = data.status === "paused";
    text(at("pause"), paused ? "Resume" : "Pause");
    at("pause").disabled = !["active", "paused", "gapped", "failing"].includes(data.status);
    for (const id of ["sync", "snapshot"]) {
      at(id).disabled = !["active", "gapped", "failing"].includes(data.status);
    }
    this.facts(data);
  }

  chart() {
    const { history } = this.client;
    const most = Math.max(1000, ...history);
    const line = points(history, SAMPLES, WIDTH, HEIGHT, most);
    const chart = at("detail-chart");
    chart.querySelector("polyline").setAttribute("points", line);
    const start = line.split(",")[0] || WIDTH;
    const area = line ? `${start},${HEIGHT} ${line} ${WIDTH},${HEIGHT}` : "";
    chart.querySelector("polygon").setAttribute("points", area);
    text(at("detail-since"), `the last ${duration(SAMPLES * SAMPLE_MS)}`);
    text(at("detail-most"), `up to ${duration(most)}`);
  }

  facts(data) {
    const facts = [
      ["Status", data.status],
      ["Captured", `up to transaction ${count(data.txid)}`],
      ["Stored", `up to transaction ${count(data.replicatedTxid)}`],
      ["Size", bytes(data.databaseBytes)],
      ["Waiting", bytes(data.pendingBytes)],
      ["Generation", data.generation ?? "–"],
      ["Last sync", moment(data.lastSyncAt)],
      ["Last snapshot", moment(data.lastSnapshotAt)],
      ["Failed attempts", count(data.syncErrors)],
      ["Lies at", data.s3Prefix],
    ];
    const list = at("facts");
    if (!list.childElementCount) {
      list.append(...facts.flatMap(([name]) => [element("dt", "", name), element("dd")]));
    }
    list.querySelectorAll("dd").forEach((node, i) => text(node, facts[i][1]));
  }

  say(words, bad) {
    text(at("outcome"), words);
    at("outcome").classList.toggle("bad", Boolean(bad));
  }

  /** Does something for the client, and says what came of it while it is still shown. */
  async act(doing, action) {
    const { client } = this;
    this.say(doing);
    let words;
    let bad = false;
    try {
      words = await action(client.data);
    } catch (error) {
      [words, bad] = [error.message, true];
    }
    if (this.client === client) this.say(words, bad);
    this.changed(client);
  }

  wait(call, done) {
    return this.act(`${at(call).textContent} …`, async (data) => {
      const answer = await (await ask("POST", pathOf(data, call))).json();
      return `${done}: transaction ${count(answer.txid)}, in ${duration(answer.durationMs)}`;
    });
  }

  pause() {
    const status = this.client.data.status === "paused" ? "active" : "paused";
    return this.act("…", async (data) => {
      await ask("PUT", pathOf(data, "status"), JSON.stringify({ status }));
      return status === "paused" ? "Paused: nothing is uploaded, all is still captured" : "Goes on";
    });
  }

  async tellMoments(client) {
    const node = at("moments");
    text(node, "…");
    let words;
    try {
      const { generations } = await json(pathOf(client.data, "moments"));
      const moments = generations.flatMap((generation) => generation.moments);
      const [first, last] = [moments[0], moments.at(-1)];
      words = first
        ? `${count(moments.length)} moments, from ${moment(first.time)} to ${moment(last.time)}`
        : "There is no moment yet";
    } catch (error) {
      words = error.message;
    }
    if (this.client === client) text(node, words);
  }

  download() {
    const { value } = at("moment");
    const time = value ? `&timestamp=${encodeURIComponent(new Date(value).toISOString())}` : "";
    return this.act("The database is restored …", async (data) => {
      const path = pathOf(data, "download") + time;
      const link = element("a");
      link.download = `${data.dbName}.db`;
      if (!token.get()) {
        // Straight to the disk; where it can't be, the browser says so.
        link.href = path;
        link.click();
        return "The download begins once the database is restored and verified";
      }
      const blob = await (await ask("GET", path)).blob();
      link.href = URL.createObjectURL(blob);
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      return `Downloaded, ${bytes(blob.size)}`;
    });
  }
}
