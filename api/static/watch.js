// One job, from its being enqueued to what it cost.

import { $, make, say } from "./dom.js";
import { paint } from "./output.js";

const FINAL = ["succeeded", "failed", "cancelled"];

const seconds = (from, to) => `${((new Date(to) - new Date(from)) / 1000).toFixed(1)} s`;

function factsOf(job) {
  const { calls, input_tokens: read, output_tokens: written, cost_usd: cost } = job.usage;
  const facts = [
    ["Cost", `$${cost}`],
    ["Tokens in", read.toLocaleString()],
    ["Tokens out", written.toLocaleString()],
    ["Prompt version", job.prompt_version],
    ["Model", job.model],
    ["Attempt", `${job.attempt} of ${job.max_attempts}, ${calls} ${calls === 1 ? "call" : "calls"}`],
    ["Took", job.started_at && job.finished_at && seconds(job.started_at, job.finished_at)],
    ["User", job.user_id],
    ["Job", job.id],
  ];
  return facts.filter(([, value]) => value).map(([name, value]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })));
}

const isAtEnd = (place) => place.scrollHeight - place.scrollTop - place.clientHeight < 40;

/** Paint; who is at the end stays there while it is written, and begins to read once it is whole. */
function paintAndFollow(place, output, isWhole) {
  const atEnd = isAtEnd(place);
  paint(place, output);
  place.tabIndex = 0; // it scrolls, also by keys
  if (atEnd) place.scrollTop = isWhole ? 0 : place.scrollHeight;
}

export class Watch {
  #stopping = new AbortController();
  #partial = null; // what is to be painted with the next frame
  #frame = 0;
  job = null;

  /** @param {() => void} onChange told when a job that is followed begins and ends */
  constructor(onChange) {
    this.onChange = onChange;
  }

  stop() {
    this.#stopping.abort();
    this.#reset();
    this.job = null;
    for (const id of ["state", "cancel", "facts"]) $(id).hidden = true;
    say($("job-trouble"), "");
    $("said").textContent = "Enqueue a job, or open one from below, and watch it here.";
  }

  /** Show a job; while it runs, what `events(signal)` tells of it. */
  async show(job, events) {
    this.#stopping.abort();
    const { signal } = (this.#stopping = new AbortController());
    this.#reset();
    this.#tell(job);
    if (FINAL.includes(job.state)) return this.#end(job);
    $("output").setAttribute("aria-busy", "true");
    $("said").textContent = "Waiting for a worker.";
    for await (const [kind, data] of events(signal)) {
      if (signal.aborted) return;
      this.#take(kind, data);
    }
    if (!signal.aborted) this.onChange();
  }

  #take(kind, data) {
    if (kind === "lost") $("said").textContent = "The connection was lost; connecting again.";
    else if (kind === "result" || kind === "error") this.#end(data);
    else if (kind === "retrying") {
      this.#reset();
      $("output").setAttribute("aria-busy", "true");
      $("said").textContent = `Beginning anew: ${data.reason}.`;
    } else {
      if (this.#written === 0) this.#begin();
      if (kind === "partial") this.#paintSoon(data.output);
      if (kind === "delta") this.#append(data.text);
    }
  }

  #begin() {
    this.#tell({ ...this.job, state: "running" });
    this.onChange();
    $("said").textContent = "Claude is writing.";
    $("raw-part").hidden = false;
  }

  #written = 0;

  #append(text) {
    this.#written += text.length;
    $("raw").firstChild.appendData(text);
    $("progress").textContent = `${this.#written.toLocaleString()} characters`;
  }

  #paintSoon(output) {
    this.#partial = output;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      paintAndFollow($("output"), this.#partial, false);
    });
  }

  #end(job) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    $("output").setAttribute("aria-busy", "false");
    if (!job.state) return say($("job-trouble"), job.detail); // it is gone: a problem, not a job
    this.#tell(job);
    $("progress").textContent = "";
    $("facts").replaceChildren(...factsOf(job));
    $("facts").hidden = false;
    if (job.output) {
      paintAndFollow($("output"), job.output, true);
      $("raw").replaceChildren(document.createTextNode(JSON.stringify(job.output, null, 2)));
      $("raw-part").hidden = false;
    }
    $("output").classList.toggle("unfinished", !job.output);
    $("said").textContent = { succeeded: "Done, and checked.", cancelled: "It was cancelled." }[job.state] ?? "It failed.";
    const problem = job.error && `${job.error.type}: ${job.error.message}`;
    say($("job-trouble"), job.state === "failed" ? problem : ""); // others keep what they got over
  }

  #tell(job) {
    this.job = job;
    $("state").textContent = job.state;
    $("state").className = `state ${job.state}`;
    $("state").hidden = false;
    $("cancel").hidden = FINAL.includes(job.state);
  }

  #reset() {
    cancelAnimationFrame(this.#frame);
    this.#frame = this.#written = 0;
    $("output").replaceChildren();
    $("output").tabIndex = -1;
    $("output").classList.remove("unfinished");
    $("output").setAttribute("aria-busy", "false");
    $("raw").replaceChildren(document.createTextNode(""));
    $("raw-part").hidden = $("facts").hidden = true;
    $("progress").textContent = "";
    say($("job-trouble"), "");
  }
}
