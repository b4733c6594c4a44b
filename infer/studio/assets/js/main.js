// The page: one session at a time, its voice, its takes, and the orders that make more of them.

import * as api from "./api.js";
import { setUpRecording } from "./bring.js";
import { VoiceCard } from "./card.js";
import { clock, element, find, remember, remembered } from "./dom.js";
import { drawJobs, OrderForm } from "./orders.js";
import { Player } from "./player.js";
import { SheetTrack } from "./sheet.js";
import { drawTake, titleOf } from "./takes.js";
import { VoiceWave, Wave } from "./wave.js";
import { fillWords, word } from "./words.js";

const SKIP_SECONDS = 5;
const QUIET_LUFS = -23; // where a take's loudness is not known

const studio = await api.describe();
fillWords({ seconds: studio.max_seconds });
let session = null;
let jobs = [];
let order = []; // names of takes as they are shown
let voiceWave = null;
const waves = new Map();
let part = null;
let blind = false;

const player = new Player(showPlaying);
const card = new VoiceCard({ onChange: () => form.show(), onEdit: changeSheet });
const track = new SheetTrack({ onEdit: changeSheet, follows: studio.takes_lead_sheet });
const form = new OrderForm(studio, { card, seconds: () => session?.voice.seconds ?? 0, onOrder });
const recording = setUpRecording({ studio, say, onSession: openSession });

function say(text, bad = false) {
  find("status").textContent = text;
  find("status").classList.toggle("bad", bad);
}

const fail = (error) => say(error.message, true);

// Sessions

async function listSessions() {
  const known = await api.sessions();
  const options = known.map((one) => element("option", { value: one.id, selected: one.id === session?.id },
    `${one.name} · ${one.created.slice(0, 16)} · ${one.seconds.toFixed(0)} s · ${one.takes}`));
  find("sessions").replaceChildren(element("option", { value: "" }, word("newSession")), ...options);
}

async function openSession(opened) {
  const own = session = opened;
  player.clear();
  part = null;
  history.replaceState(null, "", `#${session.id}`);
  for (const id of ["recording", "order", "listen", "zip"]) find(id).hidden = false;
  find("zip").href = api.zipAddress(session.id);
  find("recording-name").textContent = session.name;
  card.show(session.voice, session.sheet);
  track.show(session.sheet, session.voice.seconds);
  form.show();
  drawJobs(jobs, session.id);
  listSessions().catch(fail);
  const buffer = await player.decode(await api.sound(api.voiceAddress(session.id)));
  if (session !== own) return;
  player.add("voice", buffer, 1);
  find("seek").max = buffer.duration;
  voiceWave?.destroy();
  voiceWave = new VoiceWave(find("voice-wave"), buffer, {
    height: 96, silences: session.voice.silences, onSeek: (seconds) => player.seek(seconds), onPart: showPart,
  });
  await showTakes();
}

// Whatever becomes of an edit, what is shown then is what the studio has.
async function changeSheet(edit) {
  const own = session;
  try {
    own.sheet = await api.changeSheet(own.id, edit);
    say("");
  } catch (error) {
    fail(error);
  }
  if (session !== own) return;
  card.showSheet(own.sheet);
  track.show(own.sheet, own.voice.seconds);
  form.show();
}

function closeSession() {
  session = null;
  player.clear();
  history.replaceState(null, "", "#");
  for (const id of ["recording", "order", "listen", "zip"]) find(id).hidden = true;
}

find("sessions").addEventListener("change", ({ target }) => {
  if (target.value) api.session(target.value).then(openSession).catch(fail);
  else closeSession();
});

// Takes

// Bands as loud as the quietest of them; the voice stands to them as in their mixes.
function matchLoudness() {
  const levels = session.takes.map((take) => take.measures?.lufs ?? QUIET_LUFS);
  const quietest = Math.min(...levels);
  session.takes.forEach((take, at) => player.setGain(take.name, 10 ** ((quietest - levels[at]) / 20)));
  const wanted = session.takes[0]?.voice_lufs ?? session.voice.lufs;
  player.setGain("voice", 10 ** ((wanted - session.voice.lufs) / 20));
}

function shuffled(names) {
  const seed = remembered("blind-seed", 1);
  const place = (name) => [...`${seed}${session.id}${name}`].reduce((sum, letter) => Math.imul(sum ^ letter.charCodeAt(0), 16777619) >>> 0, 2166136261);
  return [...names].sort((one, other) => place(one) - place(other));
}

async function showTakes() {
  const own = session;
  for (const take of session.takes) {
    if (player.tracks.has(take.name)) continue;
    try {
      const buffer = await player.decode(await api.sound(api.takeAddress(session.id, take.name, "sound")));
      if (session !== own) return;
      player.add(take.name, buffer, 1, { hasVoice: take.has_voice });
    } catch {
      say(word("lost", { name: take.name }), true);
    }
  }
  find("again").hidden = !session.takes.length;
  matchLoudness();
  if (!player.selected || !player.tracks.has(player.selected)) player.selected = session.takes.at(-1)?.name ?? "voice";
  player.level();
  drawTakes();
}

function drawTakes() {
  const names = session.takes.map((take) => take.name);
  order = blind ? shuffled(names) : names;
  const byName = new Map(session.takes.map((take) => [take.name, take]));
  for (const wave of waves.values()) wave.destroy();
  waves.clear();
  const drawn = order.map((name, place) => {
    const take = byName.get(name);
    return [name, drawTake(session.id, take, titleOf(take, place, blind), blind, {
      hear: () => hear(name), use: () => { form.use(take); find("order").scrollIntoView(); }, fail,
    })];
  });
  find("takes").replaceChildren(...drawn.map(([, { drawn: made }]) => made));
  for (const [name, { wave }] of drawn) {
    const track = player.tracks.get(name);
    if (track) waves.set(name, new Wave(wave, track.buffer, { height: 52, onSeek: (seconds) => { player.select(name); player.seek(seconds); } }));
  }
  find("sources").replaceChildren(...["voice", ...order].map((name, at) => element("button", {
    type: "button", "data-source": name, onclick: () => player.select(name),
  }, name === "voice" ? word("onlyVoice") : titleOf(byName.get(name), at - 1, blind))));
  showPlaying();
}

function hear(name) {
  player.select(name);
  if (!player.playing) player.play();
}

async function onOrder(wanted) {
  if (!session) return;
  try {
    await api.order(session.id, wanted);
    say("");
  } catch (error) {
    fail(error);
  }
}

async function takeCame({ session: of, take: name }) {
  Object.assign(studio, await api.describe());
  form.show();
  if (session?.id !== of) return;
  const own = session;
  const { takes } = await api.session(of);
  if (session !== own) return;
  const isNew = !session.takes.some((take) => take.name === name);
  session.takes = takes;
  if (isNew && !player.playing) player.selected = name;
  await showTakes();
}

let arrivals = Promise.resolve();
api.listen({
  jobs: ({ jobs: all }) => { jobs = all; drawJobs(jobs, session?.id); },
  job: (job) => { jobs = jobs.map((one) => (one.id === job.id ? job : one)); drawJobs(jobs, session?.id); },
  take: (said) => { arrivals = arrivals.then(() => takeCame(said)).catch(fail); },
});

// Transport

function showPlaying() {
  const text = player.playing ? "pause" : "play";
  find("play").textContent = word(text);
  for (const [id, on] of [["mute", player.muted], ["solo", player.solo], ["loop", Boolean(player.loop)], ["blind", blind]]) {
    find(id).setAttribute("aria-pressed", on);
  }
  for (const button of find("sources").children) button.setAttribute("aria-pressed", button.dataset.source === player.selected);
  for (const shown of find("takes").children) shown.classList.toggle("selected", shown.dataset.take === player.selected);
  showTime();
}

function showTime() {
  const now = player.position();
  find("seek").value = now;
  find("seek").setAttribute("aria-valuetext", clock(now));
  find("time").textContent = `${clock(now)} / ${clock(player.seconds)}`;
  voiceWave?.show(now);
  if (player.playing) track.follow(now);
  for (const wave of waves.values()) wave.show(now);
}

function follow() {
  player.tick();
  if (player.playing) showTime();
  requestAnimationFrame(follow);
}

function setBlind(on) {
  blind = on;
  if (on) remember("blind-seed", Math.floor(Math.random() * 1e9));
  if (session) drawTakes();
}

function toggle(name) {
  player[name] = !player[name];
  player.level();
  showPlaying();
}

const toggleLoop = () => {
  if (player.loop) return player.setLoop(null);
  if (!part) return say(word("choosePart"), true);
  return player.setLoop({ ...part });
};

find("play").addEventListener("click", () => player.toggle());
find("seek").addEventListener("input", ({ target }) => player.seek(Number(target.value)));
find("mute").addEventListener("click", () => toggle("muted"));
find("solo").addEventListener("click", () => toggle("solo"));
find("loop").addEventListener("click", toggleLoop);
find("blind").addEventListener("click", () => setBlind(!blind));
find("voice-level").addEventListener("input", ({ target }) => {
  player.voiceDb = Number(target.value);
  find("voice-level-shown").textContent = `${target.value} dB`;
  player.level();
});

// A part of the voice

function showPart(start, end) {
  part = { start, end };
  find("part-from").value = start.toFixed(2);
  find("part-to").value = end.toFixed(2);
  if (player.loop) player.setLoop({ ...part });
}

function typedPart() {
  const [start, end] = ["part-from", "part-to"].map((id) => Number(find(id).value));
  if (voiceWave && end > start) voiceWave.setPart(start, Math.min(end, player.seconds));
}

for (const id of ["part-from", "part-to"]) find(id).addEventListener("change", typedPart);
find("clear-part").addEventListener("click", () => {
  part = null;
  voiceWave?.clearPart();
  find("part-from").value = find("part-to").value = "";
  if (player.loop) player.setLoop(null);
});
// As the take that is heard was made, but for the seed, which no take of the session has.
find("again").addEventListener("click", () => {
  const take = session.takes.find(({ name }) => name === player.selected);
  if (!part) return say(word("choosePart"), true);
  if (!take) return say(word("hearTake"), true);
  const { prompt, strength, weight, steps } = take;
  const seed = 1 + Math.max(...session.takes.map((one) => one.seed));
  const settings = { prompt, steps, ...(studio.listens ? { strength, weight } : {}) };
  return onOrder({ ...settings, takes: 1, seed, again: { take: take.name, start: part.start, end: Math.min(part.end, take.seconds) } });
});
find("cut").addEventListener("click", async () => {
  if (!part) return say(word("choosePart"), true);
  try {
    await openSession(await api.cut(session.id, part.start, part.end));
    say("");
  } catch (error) {
    fail(error);
  }
});

// Keyboard

addEventListener("keydown", (event) => {
  const { target, key } = event;
  const typing = target.matches("input:not([type='checkbox'], [type='radio'], [type='range']), select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const isButton = target.matches("button, a, summary, label, input:not([type='radio'], [type='range'])");
  const acts = {
    " ": () => !isButton && player.toggle(),
    ArrowLeft: () => !target.matches("input") && player.seek(player.position() - SKIP_SECONDS),
    ArrowRight: () => !target.matches("input") && player.seek(player.position() + SKIP_SECONDS),
    b: () => setBlind(!blind),
    l: toggleLoop,
    r: recording.toggle,
    0: () => player.select("voice"),
  };
  const act = acts[key.toLowerCase()] ?? acts[key] ?? (/^[1-9]$/.test(key) && order[key - 1] ? () => player.select(order[key - 1]) : null);
  if (act && act() !== false) event.preventDefault();
});

// The start

const notices = [...(studio.listens ? [] : [word("deaf")]), ...(studio.base === "tiny" ? [word("tiny")] : [])];
find("deaf").textContent = notices.join(" ");
find("deaf").hidden = !notices.length;
find("voice-level-shown").textContent = "0 dB";
requestAnimationFrame(follow);
const named = location.hash.slice(1);
if (named) await api.session(named).then(openSession).catch(() => closeSession());
await listSessions();
document.documentElement.dataset.ready = "yes";
window.studioPlayer = player;
