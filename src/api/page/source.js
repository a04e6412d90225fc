// The API as the page uses it: answers, the token, and the stream of events.

const KEPT = "litestream-token";
const LONGEST_PAUSE = 15_000;

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEPT),
  set: (text) => sessionStorage.setItem(KEPT, text),
  forget: () => sessionStorage.removeItem(KEPT),
};

function headers() {
  const text = token.get();
  return text ? { Authorization: `Bearer ${text}` } : {};
}

/** The answer of a call; throws `Refused` with the API's own sentence where it is not a good one. */
export async function ask(method, path, body) {
  const answer = await fetch(path, { method, headers: headers(), body, cache: "no-store" });
  // Health says `failing` with 503, and is an answer all the same.
  if (answer.ok || (path === "/api/health" && answer.status === 503)) return answer;
  const json = await answer.json().catch(() => null);
  const error = json?.error ?? { code: "unknown", message: `${answer.status} ${answer.statusText}` };
  throw new Refused(answer.status, error.code, error.message);
}

export const json = async (path) => (await ask("GET", path)).json();

/** The path of a client's call. */
export function pathOf(client, call) {
  const path = `/api/databases/${encodeURIComponent(client.tenantId)}/${encodeURIComponent(client.dbName)}/${call}`;
  return `${path}?prefix=${encodeURIComponent(client.prefix ?? "")}`;
}

/**
 * Follows the events until the page goes. `heard(kind, data)` is called for each, `connected(is)` when that changes.
 * EventSource can't send a token, so the stream is read by hand.
 */
export async function follow(heard, connected) {
  let pause = 500;
  for (;;) {
    try {
      const answer = await ask("GET", "/api/events");
      connected(true);
      pause = 500;
      await read(answer.body, heard);
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return;
    }
    connected(false);
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }
}

async function read(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const field = (name) =>
        part.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      const kind = field("event");
      if (kind) heard(kind, JSON.parse(field("data")));
    }
  }
}
