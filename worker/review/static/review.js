"use strict";
// Keys press what carries them (data-key), in the sample at hand or else anywhere on the page.

const samples = [...document.querySelectorAll("[data-sample]")];
let current = 0;

function scopes() {
  return samples.length ? [samples[current], document] : [document];
}

function press(key) {
  for (const scope of scopes()) {
    const target = scope.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (!target) continue;
    if (target.matches("textarea, input")) target.focus();
    else if (target.matches("details")) target.open = !target.open;
    else if (target.dataset.opens) document.getElementById(target.dataset.opens).showModal();
    else target.click();
    return true;
  }
  return false;
}

function go(number) {
  current = Math.min(Math.max(number, 0), samples.length - 1);
  samples[current].focus({ preventScroll: true });
  samples[current].scrollIntoView();
}

function openSample() {
  const open = (sample) => !sample.querySelector('[aria-pressed="true"]');
  const found = samples.findIndex((sample, number) => number > current && open(sample));
  return found >= 0 ? found : samples.findIndex(open);
}

function move(key) {
  if (key === "j") go(current + 1);
  else if (key === "k") go(current - 1);
  else if (key === "u" && openSample() >= 0) go(openSample());
  else if (key === "?") document.getElementById("keys").showModal();
  else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  if (event.target.matches("textarea, input")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (document.querySelector("dialog[open]")) return;
  if (event.repeat || event.key.length !== 1) return; // a key that is held down says one thing
  if ((samples.length && move(event.key)) || press(event.key)) event.preventDefault();
});

for (const opener of document.querySelectorAll("[data-opens]"))
  opener.addEventListener("click", () =>
    document.getElementById(opener.dataset.opens).showModal());

document.querySelector("[data-first]")?.select();

// A note that was not sent yet survives turning the page.
const form = document.querySelector("form[data-draft]");
const note = form && form.querySelector("textarea");
if (note) {
  const name = `note ${location.pathname}`;
  const sent = note.value;
  note.value = sessionStorage.getItem(name) ?? sent;
  note.addEventListener("input", () => sessionStorage.setItem(name, note.value));
  form.addEventListener("submit", () => sessionStorage.removeItem(name));
}

// In a file that was sent around, verdicts are collected here.
const collected = document.getElementById("collected");
if (collected) {
  const reviewer = document.getElementById("reviewer");
  const gather = () => {
    const verdicts = [];
    for (const sample of samples) {
      const chosen = sample.querySelector('[aria-pressed="true"]');
      if (!chosen) continue;
      const text = sample.querySelector("textarea").value;
      verdicts.push({ sample: Number(sample.dataset.sample), choice: chosen.value, note: text });
    }
    const review = document.querySelector("[data-review]").dataset.review;
    document.getElementById("count").textContent = verdicts.length;
    collected.value = JSON.stringify({ review, reviewer: reviewer.value, verdicts }, null, 1);
  };
  for (const [number, sample] of samples.entries()) {
    sample.addEventListener("focusin", () => { current = number; });
    sample.addEventListener("pointerdown", () => { current = number; });
    for (const button of sample.querySelectorAll("button[name=choice]"))
      button.addEventListener("click", () => {
        for (const other of sample.querySelectorAll("button[name=choice]"))
          other.setAttribute("aria-pressed", String(other === button));
        gather();
      });
  }
  document.addEventListener("input", gather);
  document.getElementById("copy").addEventListener("click", async () => {
    const told = document.getElementById("copied");
    if (!reviewer.value.trim()) {
      told.textContent = "Say your name first.";
      reviewer.focus();
      return;
    }
    gather();
    collected.select();
    try {
      await navigator.clipboard.writeText(collected.value);
      told.textContent = "Copied.";
    } catch {
      told.textContent = document.execCommand("copy") ? "Copied." : "Select the text and copy it.";
    }
  });
  // An unsaved file of verdicts should not be closed by accident.
  window.addEventListener("beforeunload", (event) => {
    if (document.querySelector('[aria-pressed="true"]')) event.preventDefault();
  });
  gather();
}
