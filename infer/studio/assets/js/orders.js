// What the band is asked for, and the orders on their way.

import * as api from "./api.js";
import { element, find, remember, remembered } from "./dom.js";
import { word } from "./words.js";

const SUGGESTED = [
  "piano", "acoustic guitar", "electric guitar", "bass", "drums", "strings", "organ", "synth", "brass",
  "pop", "rock", "jazz", "folk", "soul", "bossa nova", "city pop", "ballad", "lo-fi", "upbeat", "calm",
];
const RECENT = 5;

const parted = (text) => text.split(/[,;、]/).map((tag) => tag.trim()).filter(Boolean);

export class OrderForm {
  constructor(studio, { card, seconds, onOrder }) {
    Object.assign(this, { studio, card, seconds, onOrder });
    this.chosen = new Set(remembered("tags", ["piano", "drums"]));
    find("words").value = remembered("words", "");
    const { defaults } = studio;
    find("count").max = studio.most_takes;
    find("count").value = defaults.takes;
    find("seed").value = defaults.seed;
    find("steps").max = studio.most_steps;
    find("steps").value = defaults.steps;
    find("strength").value = defaults.strength;
    find("weight").value = defaults.weight ?? 0;
    for (const name of ["strength", "weight"]) {
      find(name).disabled = !studio.listens;
      find(name).addEventListener("input", () => this.show());
    }
    for (const name of ["count", "steps", "words"]) find(name).addEventListener("input", () => this.show());
    find("generate").addEventListener("click", () => this.order());
    this.drawChips();
    this.drawRecent();
    this.show();
  }

  drawChips() {
    const chips = [...new Set([...SUGGESTED, ...this.chosen])].map((tag) => {
      const chip = element("button", { type: "button", "aria-pressed": this.chosen.has(tag), onclick: () => {
        if (!this.chosen.delete(tag)) this.chosen.add(tag);
        chip.setAttribute("aria-pressed", this.chosen.has(tag));
        this.show();
      } }, tag);
      return chip;
    });
    find("chips").replaceChildren(...chips);
  }

  drawRecent() {
    find("recent").replaceChildren(...remembered("recent", []).map((prompt) => element("option", { value: prompt })));
  }

  prompt() {
    return [...new Set([...this.chosen, ...parted(find("words").value), ...this.card.tags()])].join(", ");
  }

  wanted() {
    const number = (name) => Number(find(name).value);
    const numbers = { takes: number("count"), seed: number("seed"), steps: number("steps") };
    return { prompt: this.prompt(), ...numbers, ...(this.studio.listens ? { strength: number("strength"), weight: number("weight") } : {}) };
  }

  // Takes over what made a take.
  use(take) {
    this.chosen = new Set();
    find("words").value = take.prompt;
    this.drawChips();
    find("seed").value = take.seed;
    find("steps").value = take.steps;
    if (this.studio.listens) {
      find("strength").value = take.strength;
      find("weight").value = take.weight;
    }
    this.show();
  }

  show() {
    const { listens, seconds_a_step: speed, memory_bytes: memory } = this.studio;
    const strength = Number(find("strength").value);
    find("strength-shown").textContent = strength === 0 || !listens ? word("ignores", { value: "0" }) : strength.toFixed(2);
    find("weight-shown").textContent = listens ? Number(find("weight").value).toFixed(2) : "–";
    const work = Number(find("count").value) * Number(find("steps").value) * this.seconds();
    find("estimate").textContent = speed && work ? word("estimate", { seconds: Math.max(1, Math.round(speed * work)), gigabytes: (memory / 1e9).toFixed(1) }) : word("noEstimate");
    remember("tags", [...this.chosen]);
    remember("words", find("words").value);
  }

  async order() {
    const wanted = this.wanted();
    remember("recent", [find("words").value, ...remembered("recent", [])].filter((text, at, all) => text && all.indexOf(text) === at).slice(0, RECENT));
    this.drawRecent();
    await this.onOrder(wanted);
  }
}

export function drawJobs(jobs, session) {
  const drawn = jobs.filter((job) => job.session === session || job.state === "waiting" || job.state === "running")
    .slice(-6).map((job) => {
      const busy = job.state === "waiting" || job.state === "running";
      return element("li", { "data-job": job.id, "data-state": job.state },
        element("p", {}, lineOf(job)),
        busy ? element("button", { type: "button", onclick: () => api.cancel(job.id).catch(() => {}) }, word("cancel")) : null,
        busy ? element("progress", { max: Math.max(1, job.steps) * job.wanted, value: shareOf(job), "aria-label": lineOf(job) }) : null);
    });
  find("jobs").replaceChildren(...drawn);
}

const shareOf = (job) => (job.note === "measuring" ? 1 : 0) * job.steps * job.wanted || job.at_take * job.steps + job.step;

function lineOf(job) {
  const take = { take: job.at_take + 1, of: job.wanted };
  if (job.state === "waiting") return word("waiting", { position: job.position });
  if (job.state === "running" && job.note === "measuring") return word("measuring");
  if (job.state === "running") {
    const line = job.step ? word("running", { ...take, step: job.step, steps: job.steps }) : word("opening", take);
    return job.note ? `${line} (${job.note})` : line;
  }
  return word(job.state, { count: job.takes.length, error: job.error });
}
