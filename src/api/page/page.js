// The page: asks for everything at the start and now and then, hears of changes in between, and shows them.

import { Clients, SAMPLE_MS, STATUSES } from "./clients.js";
import { Detail } from "./detail.js";
import { count, duration } from "./format.js";
import { ask, follow, json, Refused, token } from "./source.js";
import { element, Table, text } from "./table.js";

const at = (id) => document.getElementById(id);
const HEALTH_MS = 5000;
/** An instance that is starting is asked again after this. */
const START_MS = 1000;
/** A new order at most this often, so that rows do not dance. */
const ORDER_MS = 1000;

const clients = new Clients();
const view = { search: "", status: "", order: "status" };
let stale = true;
let listedAt = 0;

const table = new Table(orderBy, (client) => detail.show(client));
const detail = new Detail(askForOne);

function orderBy(column) {
  view.order = view.order === column ? `-${column}` : column;
  select();
}

/** Searches, filters and orders anew. */
function select() {
  stale = false;
  const found = clients.select(view.search, view.status, view.order);
  table.set(found, view.order);
  const all = clients.all.size;
  const some = found.length === all ? "" : `${count(found.length)} of `;
  text(at("count"), `${some}${count(all)} ${all === 1 ? "client" : "clients"}`);
  at("empty").hidden = found.length > 0;
  text(
    at("empty"),
    all ? "No client matches." : "No client yet: a database is registered when its file is created.",
  );
  drawFilters();
}

function drawFilters() {
  const counts = clients.counts();
  const node = at("filters");
  if (!node.childElementCount) {
    for (const status of ["", ...STATUSES]) {
      const button = element("button", "filter", element("span", "word"), element("span", "n"));
      button.type = "button";
      button.dataset.status = status;
      button.addEventListener("click", () => {
        view.status = view.status === status ? "" : status;
        at("grid").scrollTop = 0;
        select();
      });
      node.append(button);
    }
  }
  for (const button of node.children) {
    const { status } = button.dataset;
    const n = status ? counts[status] : clients.all.size;
    button.hidden = n === 0 && status !== "" && status !== view.status;
    button.setAttribute("aria-pressed", view.status === status);
    text(button.children[0], status || "all");
    text(button.children[1], count(n));
  }
}

function drawHealth(health) {
  const verdict = at("verdict");
  verdict.dataset.verdict = health.status;
  text(verdict, health.status);
  text(at("instance"), `version ${health.version}, up ${duration(health.uptimeSeconds * 1000)}`);
  const mounts = health.mounts
    .filter((mount) => mount.state !== "mounted" || mount.error)
    .map((mount) => `${mount.mountpoint} is ${mount.state}${mount.error ? `: ${mount.error}` : ""}`);
  const store = health.store.reachable === false ? [`The store does not answer: ${health.store.error}`] : [];
  at("problems").replaceChildren(...[...mounts, ...store].map((words) => element("li", "", words)));
}

async function askForOne(client) {
  const { tenantId, dbName, prefix } = client.data;
  const name = `${encodeURIComponent(tenantId)}/${encodeURIComponent(dbName)}`;
  const data = await guarded(() =>
    json(`/api/health/clients/${name}?prefix=${encodeURIComponent(prefix ?? "")}`),
  );
  if (data) clients.put(data);
  select();
  detail.draw();
}

async function askForAll() {
  listedAt = Date.now();
  const answer = await guarded(() => json("/api/health/clients"));
  if (!answer) return;
  clients.replace(answer.clients);
  select();
}

/** What `request` answers; where the token is missing or wrong it is asked for, and nothing comes of it. */
async function guarded(request) {
  try {
    return await request();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForToken();
    // What can't be had now is asked for again; that there is no connection is shown already.
    return null;
  }
}

function askForToken() {
  const dialog = at("ask");
  if (dialog.open) return;
  at("ask-error").hidden = !token.get();
  text(at("ask-error"), "This token is not the instance's.");
  token.forget();
  at("token").value = "";
  dialog.showModal();
}

function heard(kind, data) {
  if (kind === "missed") {
    // Who hears too much to follow must not ask for all of it each time as well.
    if (Date.now() - listedAt > listPause()) askForAll();
  } else if (kind === "unregistered") clients.remove(data);
  else clients.put(data);
  stale = true;
}

function connected(is) {
  at("live").dataset.live = is ? "on" : "off";
  text(at("live-word"), is ? "live" : "no connection");
  // Also without: what can't be heard can still be asked for.
  askForAll();
}

/** The list is asked for anew now and then: what only grows old makes no event. */
function listPause() {
  return Math.min(60_000, 5000 + clients.all.size * 5);
}

async function repeat(pause, work) {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, pause()));
    if (!document.hidden) await work();
  }
}

const askForHealth = async () => {
  const health = await guarded(() => json("/api/health"));
  if (health) drawHealth(health);
};

function start() {
  at("forget").hidden = !token.get();
  askForHealth();
  // Without a token where one is needed, this asks for it.
  guarded(() => ask("GET", "/api/databases?status=waiting")).then((answer) => {
    if (answer) follow(heard, connected);
    else if (!at("ask").open) setTimeout(start, START_MS);
  });
}

at("search").addEventListener("input", (event) => {
  view.search = event.target.value;
  at("grid").scrollTop = 0;
  select();
});
at("ask").addEventListener("cancel", (event) => event.preventDefault());
at("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(at("token").value.trim());
  at("ask").close();
  start();
});
at("forget").addEventListener("click", () => {
  token.forget();
  location.reload();
});

setInterval(() => {
  clients.sample();
  if (document.hidden) return;
  table.draw();
  detail.draw();
}, SAMPLE_MS);
setInterval(() => {
  if (stale && !document.hidden) {
    select();
    detail.draw();
  }
}, ORDER_MS);
repeat(() => HEALTH_MS, askForHealth);
repeat(listPause, askForAll);
start();
