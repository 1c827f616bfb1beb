// The API: requests with the key of this tab, and a job's events.

const STORED = "claude-jobs-key";

export const key = {
  get: () => sessionStorage.getItem(STORED),
  set: (value) => sessionStorage.setItem(STORED, value),
  forget: () => sessionStorage.removeItem(STORED),
};

/** An answer that is an error: `status`, `detail` in words, and `errors` by path. */
export class Problem extends Error {
  constructor(status, told) {
    super(told?.detail ?? `The server answered ${status}.`);
    this.status = status;
    this.errors = told?.errors ?? [];
  }
}

async function send(path, options = {}) {
  const headers = { ...options.headers, authorization: `Bearer ${key.get()}` };
  const answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  if (answer.ok) return answer;
  throw new Problem(answer.status, await answer.json().catch(() => null));
}

export const get = async (path) => (await send(path)).json();
export const cancel = async (path) => (await send(path, { method: "DELETE" })).json();
export const post = async (path, body, idempotencyKey) =>
  (await send(path, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json", "idempotency-key": idempotencyKey },
  })).json();

/** Server-sent events of a body: [event, data, id] of each, as text. `retry` is told aside. */
async function* parsed(body, onRetry) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", event = "", data = [], id = null;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, content] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
      if (line === "") {
        if (data.length) yield [event, data.join("\n"), id];
        event = "", data = [], id = null;
      } else if (field === "event") event = content;
      else if (field === "data") data.push(content ?? "");
      else if (field === "id") id = content;
      else if (field === "retry") onRetry(Number(content));
    }
  }
}

const LONGEST_WAIT = 15_000;

const pause = (milliseconds, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });

/**
 * A job's events until its end, over lost connections: `[kind, data]`, and `["lost"]` when one was.
 * EventSource would do, but it cannot send a key.
 */
export async function* follow(path, signal) {
  let lastId = null, retry = 1000, failures = 0;
  while (!signal.aborted) {
    try {
      const headers = lastId ? { "last-event-id": lastId } : {};
      const answer = await send(path, { headers, signal });
      for await (const [kind, data, id] of parsed(answer.body, (given) => (retry = given))) {
        failures = 0;
        if (id) lastId = id;
        yield [kind, JSON.parse(data)];
        if (kind === "result" || kind === "error") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      const passing = !(error instanceof Problem) || error.status === 429 || error.status >= 500;
      if (!passing) throw error;
    }
    yield ["lost"];
    await pause(Math.min(retry * 2 ** failures++, LONGEST_WAIT), signal);
  }
}
