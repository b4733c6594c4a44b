// The takes of a session: what each is, how it stands, and what can be done with it.

import * as api from "./api.js";
import { clock, element } from "./dom.js";
import { word } from "./words.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const [IN_KEY, NEAR_KEY, CHANCE] = [2, 4, 9]; // places among twelve
const [ON_BEAT, ABOVE_CHANCE] = [0.8, 0.15];
const [NO_LEAK, SOME_LEAK] = [0.05, 0.15];

export const numberOf = (name) => String(Number(name.slice("take-".length)));

// What a take is called on the page: its number, or a letter while it is judged blind.
export function titleOf(take, place, blind) {
  return word("take", { name: blind ? LETTERS[place % LETTERS.length] : numberOf(take.name) });
}

function measuresOf(take) {
  if (take.has_voice) return [word("holdsVoice")];
  const measures = take.measures;
  if (!measures || measures.rank === null) return [word("measuresLater")];
  const { rank, leak } = measures;
  const key = rank <= IN_KEY ? "inKey" : rank <= NEAR_KEY ? "nearKey" : rank <= CHANCE ? "noKey" : "offKey";
  const leaks = leak <= NO_LEAK ? "noLeak" : leak <= SOME_LEAK ? "someLeak" : "muchLeak";
  const place = (value) => (Number.isInteger(value) ? String(value) : value.toFixed(1));
  const lines = [word("rank", { word: word(key), rank: place(rank) })];
  if (measures.other_rank !== null) lines.push(word("otherRank", { rank: place(measures.other_rank) }));
  if (measures.key) lines.push(word("bandKey", { key: measures.key }));
  lines.push(word("leak", { word: word(leaks), leak: leak.toFixed(2) }));
  if (measures.other_leak !== null) lines.push(word("otherLeak", { leak: measures.other_leak.toFixed(2) }));
  return [...lines, ...timeOf(measures)];
}

function timeOf({ tempo, sheet_tempo: wanted, beats, chance_beats: chance }) {
  if (beats === null || beats === undefined) return [];
  const time = beats >= ON_BEAT ? "inTime" : beats > chance + ABOVE_CHANCE ? "nearTime" : "offTime";
  return [word("beats", { word: word(time), beats: beats.toFixed(2), chance: chance.toFixed(2) }),
    word("tempoHeard", { tempo: Math.round(tempo), wanted: Math.round(wanted) })];
}

function stars(session, take, title, onError) {
  const group = element("span", { class: "stars", role: "radiogroup", "aria-label": word("stars", { name: title }) });
  const paint = () => [...group.children].forEach((label, at) => {
    label.classList.toggle("on", at < take.stars);
    label.lastElementChild.textContent = at < take.stars ? "★" : "☆";
  });
  for (let count = 1; count <= 5; count++) {
    const radio = element("input", { type: "radio", name: `stars-${take.name}`, value: count, "aria-label": word("star", { count }), onchange: async () => {
      const before = take.stars;
      take.stars = count;
      paint();
      try {
        await api.rate(session, take.name, count);
      } catch (error) {
        take.stars = before;
        paint();
        onError(error);
      }
    } });
    radio.checked = take.stars === count;
    group.append(element("label", {}, radio, element("span", { "aria-hidden": "true" }, "★")));
  }
  paint();
  return group;
}

// `acts` are what its buttons do: hear, use, fail.
export function drawTake(session, take, title, blind, acts) {
  const about = [word("takeSettings", take), ...(take.weight === null ? [] : [word("strengthIs", take)]), take.prompt];
  if (take.again) about.unshift(word("againOf", { take: titleOf({ name: take.again.take }), from: clock(take.again.start), to: clock(take.again.end) }));
  const links = ["sound", "mix", "record"].map((kind) => element("a", {
    class: "button", href: api.takeAddress(session, take.name, kind), download: true,
  }, word({ sound: "download", mix: "downloadMix", record: "record_json" }[kind])));
  const wave = element("div", { class: "wave" });
  const drawn = element("article", { class: "take", "data-take": take.name, "aria-label": title },
    element("header", {}, element("h3", {}, title), stars(session, take, title, acts.fail)),
    wave,
    blind ? null : element("p", { class: "soft about" }, about.join(" · ")),
    blind ? null : element("p", { class: "measures" }, measuresOf(take).join(" · ")),
    element("div", { class: "does" },
      element("button", { type: "button", onclick: acts.hear }, word("listenTo", { name: title })),
      ...(blind ? [] : [element("button", { type: "button", onclick: acts.use }, word("useSettings")), ...links])));
  return { drawn, wave };
}
