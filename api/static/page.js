// The page: log in, fill the form, follow a job, list the recent ones.

import { cancel, follow, get, key, post, Problem } from "./api.js";
import { $, make, say } from "./dom.js";
import { Form } from "./form.js";
import { Watch } from "./watch.js";

let tasks = [];
let settings = { flower_url: null, samples: [] };
let samples = [];
let form = null;
let nextCursor = null;
let idempotencyKey = null;

const watch = new Watch(() => listJobs());

// The key

async function logIn() {
  const [listed, set] = await Promise.all([get("/v1/tasks"), get("/page/settings")]);
  tasks = listed.tasks;
  settings = set;
  $("login").hidden = true;
  $("work").hidden = $("forget").hidden = false;
  $("flower").hidden = !settings.flower_url;
  if (settings.flower_url) $("flower").href = settings.flower_url;
  $("task").replaceChildren(...tasks.map(({ name }) => make("option", { value: name, textContent: name })));
  await pickTask();
  await Promise.all([listJobs(), openLinked()]);
}

function logOut(reason) {
  key.forget();
  watch.stop();
  $("work").hidden = $("forget").hidden = $("flower").hidden = true;
  $("login").hidden = false;
  say($("key-trouble"), reason);
  $("key").value = "";
  $("key").focus();
}

/** Say what went wrong in `place`; a key that is none leads back to where one is typed in. */
function fail(error, place) {
  if (error instanceof Problem && error.status === 401) logOut("The server does not know this key.");
  else say(place, error instanceof Problem ? error.message : "The server cannot be reached.");
  if (!(error instanceof Problem || error instanceof TypeError)) throw error;
}

$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  key.set($("key").value.trim());
  $("key").value = "";
  say($("key-trouble"), "");
  try {
    await logIn();
    $("task").focus();
  } catch (error) {
    fail(error, $("key-trouble"));
  }
});
$("forget").addEventListener("click", () => logOut(""));

// The form

async function pickTask() {
  const task = tasks.find(({ name }) => name === $("task").value);
  $("task-hint").textContent = task.description ?? "";
  form = new Form($("fields"), task.input_schema);
  idempotencyKey = null;
  say($("form-trouble"), "");
  await offerSamples(task);
}

async function offerSamples(task) {
  $("sample-line").hidden = true;
  if (!settings.samples.includes(task.name)) return;
  try {
    samples = (await get(`/page/samples/${encodeURIComponent(task.name)}`)).samples;
  } catch (error) {
    fail(error, $("form-trouble"));
    return;
  }
  if (task.name !== $("task").value) return; // another one was picked meanwhile
  const title = (sample) => Object.values(sample).find((each) => typeof each === "string") ?? "";
  const options = samples.map((sample, number) =>
    make("option", { value: number, textContent: `${number + 1}: ${title(sample).slice(0, 60)}` }));
  $("sample").replaceChildren(make("option", { value: "", textContent: "–" }), ...options);
  $("sample-line").hidden = samples.length === 0;
}

$("task").addEventListener("change", pickTask);
$("sample").addEventListener("change", () => form.fill(samples[$("sample").value] ?? {}));
$("job-form").addEventListener("input", () => (idempotencyKey = null));
$("job-form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("job-form").requestSubmit($("submit"));
});
$("job-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  say($("form-trouble"), "");
  const input = form.read();
  if (input === null || $("submit").disabled) return;
  const body = { task: $("task").value, input, stream: true };
  for (const [name, id] of [["prompt_version", "prompt-version"], ["model", "model"], ["user_id", "user"]]) {
    if ($(id).value.trim()) body[name] = $(id).value.trim();
  }
  // The same until it is known to have arrived: pressed again after an error, it is still one job.
  idempotencyKey ??= randomKey();
  $("submit").disabled = true;
  try {
    const job = await post("/v1/jobs", body, idempotencyKey);
    idempotencyKey = null;
    open(job);
    await listJobs();
  } catch (error) {
    const rest = error instanceof Problem ? form.blame(error.errors) : [];
    if (error instanceof Problem && error.errors.length && !rest.length) return;
    fail(error, $("form-trouble"));
  } finally {
    $("submit").disabled = false;
  }
});

// Not crypto.randomUUID, which is not there over plain HTTP from another machine.
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

// The job

function open(job) {
  history.replaceState(null, "", `#${job.id}`);
  for (const button of $("jobs").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(button.dataset.id === job.id));
  }
  if (matchMedia("(max-width: 60rem)").matches) $("result-title").scrollIntoView();
  watch.show(job, (signal) => follow(job.links.events, signal)).catch((error) => fail(error, $("job-trouble")));
}

async function openById(id) {
  try {
    open(await get(`/v1/jobs/${encodeURIComponent(id)}`));
  } catch (error) {
    fail(error, $("job-trouble"));
  }
}

async function openLinked() {
  const id = location.hash.slice(1);
  if (/^[0-9a-f-]{36}$/.test(id) && id !== watch.job?.id) await openById(id);
}

addEventListener("hashchange", openLinked);
$("cancel").addEventListener("click", async () => {
  $("cancel").disabled = true;
  try {
    await cancel(watch.job.links.self);
  } catch (error) {
    fail(error, $("job-trouble"));
  } finally {
    $("cancel").disabled = false;
  }
});

// The list

const moments = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const times = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

/** A moment as short as it can be told, so that the list fits a phone. */
function when(text) {
  const date = new Date(text);
  return (date.toDateString() === new Date().toDateString() ? times : moments).format(date);
}

function row(job) {
  const button = make("button", {
    type: "button", className: "link", textContent: job.task,
    attributes: { "aria-current": String(job.id === watch.job?.id), "aria-label": `Open ${job.task} ${job.id}` },
  });
  button.dataset.id = job.id;
  button.addEventListener("click", () => openById(job.id));
  const number = (textContent) => make("td", { className: "number", textContent });
  return make("tr", {},
    make("td", {}, button),
    make("td", {}, make("span", { className: `state ${job.state}`, textContent: job.state, title: job.held_by ? `held by the budget ${job.held_by}` : "" })),
    make("td", {}, make("time", { dateTime: job.created_at, textContent: when(job.created_at), title: moments.format(new Date(job.created_at)) })),
    number(job.usage.input_tokens.toLocaleString()),
    number(job.usage.output_tokens.toLocaleString()),
    number(`$${Number(job.usage.cost_usd).toFixed(4)}`),
    make("td", { textContent: job.prompt_version ?? "" }));
}

async function listJobs(cursor) {
  try {
    const page = await get(`/v1/jobs?limit=15${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
    const focused = document.activeElement?.dataset?.id;
    const rows = page.jobs.map(row);
    if (cursor) $("jobs").append(...rows);
    else $("jobs").replaceChildren(...rows);
    if (!$("jobs").rows.length) {
      $("jobs").append(make("tr", {}, make("td", { colSpan: 7, className: "hint", textContent: "None yet." })));
    }
    if (focused) $("jobs").querySelector(`[data-id="${focused}"]`)?.focus();
    nextCursor = page.next_cursor;
    $("older").hidden = !nextCursor;
    say($("jobs-trouble"), "");
  } catch (error) {
    fail(error, $("jobs-trouble"));
  }
}

$("refresh").addEventListener("click", () => listJobs());
$("older").addEventListener("click", () => listJobs(nextCursor));

if (key.get()) logIn().catch((error) => { $("login").hidden = false; fail(error, $("key-trouble")); });
else logOut("");
