"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const LETTERS = "ABCDEFGHIJKLNOPQRSTUWXYZ"; // V and M are keys of their own
  const VOCAL = -1;
  const NO_DIFFERENCE = -1;
  const SKIP_SECONDS = 5;
  const IN_STEP_SECONDS = 0.03; // two clips further apart than this are brought together when another clip is unmuted
  const STORE = `backline-comparison:${data.id}`;
  const find = (id) => document.getElementById(id);
  const OUTPUTS = data.rows[0].outputs.length;

  // Who is who, and by which settings; opened when names are shown or ratings exported, so that a blind page has none.
  let names = null;

  function withNames(then) {
    if (names) return then();
    const script = element("script", { src: "names.js" });
    script.addEventListener("error", () => say("names.js cannot be opened. Keep the page in its folder.", true));
    script.addEventListener("load", () => {
      names = window.backlineNames;
      delete window.backlineNames;
      script.remove();
      then();
    });
    document.head.append(script);
  }

  const nameOf = (row, output) => names.models[names.rows[row].models[output]];

  // What is kept between visits: answers by the places of sample and output in the data.
  const fresh = () => ({
    rater: "", seed: Math.floor(Math.random() * 1e6), blind: true, turn: 0, withVoice: true,
    scores: {}, comments: {}, votes: {},
  });
  let state = load();
  // What is on the page now.
  let view = null;

  function load() {
    try {
      return { ...fresh(), ...JSON.parse(localStorage.getItem(STORE) || "{}") };
    } catch {
      return fresh();
    }
  }

  function save() {
    try {
      localStorage.setItem(STORE, JSON.stringify(state));
    } catch {
      say("This browser keeps no progress for this page: export before you close it.", true);
    }
    showProgress();
  }

  function say(text, bad = false) {
    find("status").textContent = text;
    find("status").classList.toggle("bad", bad);
  }

  // Chance from a seed (mulberry32), so that a shown seed gives the same order again.
  function chance(seed) {
    let at = seed >>> 0;
    return () => {
      at = (at + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(at ^ (at >>> 15), at | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  function order(count, seed) {
    const places = Array.from({ length: count }, (_, place) => place);
    if (!state.blind) return places;
    const draw = chance(seed);
    for (let last = count - 1; last > 0; last--) {
      const other = Math.floor(draw() * (last + 1));
      [places[last], places[other]] = [places[other], places[last]];
    }
    return places;
  }

  const rowOrder = () => order(data.rows.length, state.seed);
  const outputOrder = (row) => !state.blind ? namedOrder(row) : order(OUTPUTS, Math.imul(state.seed + 1, 2654435761) + Math.imul(row + 1, 40503));
  const namedOrder = (row) => order(OUTPUTS, 0).sort((one, other) => names.rows[row].models[one] - names.rows[row].models[other]);
  const pairId = (row, one, other) => `${row}.${Math.min(one, other)}.${Math.max(one, other)}`;

  function element(kind, attributes = {}, ...children) {
    const made = document.createElement(kind);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  function choices(name, options, chosen, onchoose) {
    return element("div", { class: "switch" }, ...options.map(({ value, text, title }) => {
      const radio = element("input", { type: "radio", name, value, "aria-label": title || text, onchange: () => onchoose(value) });
      radio.checked = value === chosen;
      return element("label", {}, radio, element("span", { "aria-hidden": "true" }, text));
    }));
  }

  function pairs(places) {
    return places.flatMap((one, at) => places.slice(at + 1).map((other) => [one, other]));
  }

  function showProgress() {
    const asked = data.rows.length * (OUTPUTS * data.axes.length + (OUTPUTS * (OUTPUTS - 1)) / 2);
    const given = Object.keys(state.scores).length + Object.keys(state.votes).length;
    find("count").textContent = `${given} of ${asked} answers`;
    find("progress").max = asked;
    find("progress").value = given;
  }

  // Playing. Every clip of a sample runs; one is heard. A change of clip is a change of mute, at the same moment.

  class Player {
    constructor(row, places) {
      this.lanes = [{ model: VOCAL, clips: { mix: this.clip(row.vocal) } }];
      for (const model of places) {
        const output = row.outputs[model];
        const clips = { mix: this.clip(output.mix) };
        if (output.band) clips.band = this.clip(output.band);
        this.lanes.push({ model, clips });
      }
      this.selected = this.lanes[Math.min(1, this.lanes.length - 1)];
      this.playing = false;
      this.clips = this.lanes.flatMap((lane) => Object.values(lane.clips));
      this.seconds = row.vocal.seconds;
    }

    clip(sound) {
      const audio = element("audio", { src: sound.audio, preload: "auto" });
      audio.volume = sound.volume;
      audio.muted = true;
      audio.addEventListener("error", () => say(`${decodeURIComponent(sound.audio)} cannot be played. Keep the page in its folder.`, true));
      audio.addEventListener("ended", () => audio === this.current() && this.playing && (this.pause(), this.seek(0)));
      return audio;
    }

    kindOf(lane) {
      return !state.withVoice && lane.clips.band ? "band" : "mix";
    }

    current() {
      return this.selected.clips[this.kindOf(this.selected)];
    }

    select(lane = this.selected) {
      const before = this.audible;
      this.selected = lane;
      this.audible = this.current();
      if (before && before !== this.audible && Math.abs(this.audible.currentTime - before.currentTime) > IN_STEP_SECONDS) {
        this.audible.currentTime = before.currentTime;
      }
      for (const clip of this.clips) clip.muted = clip !== this.audible;
      showSelected();
    }

    play() {
      this.playing = true;
      const now = this.current().currentTime;
      for (const clip of this.clips) {
        if (Math.abs(clip.currentTime - now) > IN_STEP_SECONDS) clip.currentTime = now;
        clip.play().catch((error) => {
          if (clip === this.current() && error.name !== "AbortError") { this.pause(); say("This browser did not let the sound start. Press Play again.", true); }
        });
      }
      showSelected();
      tick();
    }

    pause() {
      this.playing = false;
      for (const clip of this.clips) clip.pause();
      showSelected();
    }

    toggle() {
      if (this.playing) this.pause();
      else this.play();
    }

    seek(seconds) {
      const to = Math.max(0, Math.min(seconds, this.seconds));
      for (const clip of this.clips) clip.currentTime = to;
      showTime(to);
    }

    close() {
      this.playing = false;
      for (const clip of this.clips) { clip.pause(); clip.removeAttribute("src"); clip.load(); }
    }
  }

  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

  function showTime(now = view.player.current().currentTime) {
    view.seek.value = now;
    view.seek.setAttribute("aria-valuetext", clock(now));
    view.time.textContent = `${clock(now)} / ${clock(view.player.seconds)}`;
    for (const head of view.heads) head.style.left = `${(100 * now) / view.player.seconds}%`;
  }

  function tick() {
    if (!view.player.playing) return;
    showTime();
    requestAnimationFrame(tick);
  }

  function showSelected() {
    const { player } = view;
    view.play.textContent = player.playing ? "Pause" : "Play";
    for (const [lane, shown] of view.shown) {
      const selected = lane === player.selected;
      shown.lane.classList.toggle("selected", selected);
      for (const button of shown.buttons) button.setAttribute("aria-pressed", selected);
      showPictures(lane, shown);
    }
  }

  function showPictures(lane, shown) {
    const sound = lane.model === VOCAL ? view.row.vocal : view.row.outputs[lane.model][view.player.kindOf(lane)];
    if (shown.wave.getAttribute("src") === sound.wave) return;
    shown.wave.src = sound.wave;
    shown.mel.src = sound.mel;
    shown.kind.textContent = lane.model === VOCAL ? "what was sung" : view.player.kindOf(lane) === "mix" ? "with the voice" : "the band alone";
  }

  // One sample.

  function show() {
    const rows = rowOrder();
    state.turn = Math.max(0, Math.min(state.turn, rows.length - 1));
    const place = rows[state.turn];
    const row = data.rows[place];
    const places = outputOrder(place);
    if (view) view.player.close();
    view = { row, place, places, player: new Player(row, places), shown: new Map(), heads: [] };
    view.name = (model) => (model === VOCAL ? "Vocal" : state.blind ? LETTERS[places.indexOf(model)] : nameOf(place, model));
    view.title = (model) => (model === VOCAL ? "Vocal" : state.blind ? `Band ${view.name(model)}` : view.name(model));
    find("sample").replaceChildren(turns(rows.length), about(row), transport(), lanes(), ...(state.blind ? [votes(), cards()] : [settings()]));
    view.player.select();
    showTime(0);
    showProgress();
  }

  function turns(count) {
    const step = (by, text) => element("button", {
      type: "button", disabled: state.turn + by < 0 || state.turn + by >= count, onclick: () => turn(by),
    }, text);
    return element("nav", { class: "turn", "aria-label": "Samples" }, step(-1, "← Previous"),
      element("span", { class: "soft" }, `Sample ${state.turn + 1} of ${count}`), step(1, "Next →"));
  }

  function turn(by) {
    const to = state.turn + by;
    if (to < 0 || to >= data.rows.length) return;
    state.turn = to;
    save();
    say("");
    show();
  }

  function about(row) {
    const tags = row.prompt.split(",").map((tag) => tag.trim()).filter(Boolean);
    return element("section", { "aria-label": "Sample" }, element("h2", {}, row.key),
      element("ul", { class: "tags", "aria-label": "Prompt" }, ...tags.map((tag) => element("li", {}, tag))),
      element("details", { class: "lyrics" }, element("summary", {}, "Lyrics"), element("p", {}, row.lyrics)));
  }

  function transport() {
    view.play = element("button", { type: "button", class: "play primary", id: "play", onclick: () => view.player.toggle() }, "Play");
    view.seek = element("input", {
      type: "range", min: 0, max: view.player.seconds, step: 0.01, "aria-label": "Position",
      oninput: () => view.player.seek(Number(view.seek.value)),
    });
    view.time = element("span", { class: "time" });
    const sources = view.player.lanes.map((lane) => {
      const button = element("button", { type: "button", "data-source": view.name(lane.model), title: view.title(lane.model), onclick: () => view.player.select(lane) }, view.name(lane.model));
      view.shown.set(lane, { buttons: [button] });
      return button;
    });
    const voice = choices("voice", [{ value: "band", text: "Band alone" }, { value: "mix", text: "With the voice" }],
      state.withVoice ? "mix" : "band", (value) => setVoice(value === "mix"));
    voice.id = "voice";
    voice.setAttribute("role", "group");
    voice.setAttribute("aria-label", "What is heard");
    return element("section", { class: "transport", "aria-label": "Player" },
      element("div", { class: "clock" }, view.play, view.seek, view.time),
      element("div", { class: "sources" }, ...sources, voice));
  }

  function setVoice(withVoice) {
    state.withVoice = withVoice;
    save();
    find("voice").querySelector(`[value=${withVoice ? "mix" : "band"}]`).checked = true;
    view.player.select();
  }

  function lanes() {
    return element("section", { class: "lanes", "aria-label": "Waveforms and spectrograms" }, ...view.player.lanes.map((lane) => {
      const title = view.title(lane.model);
      const kind = element("small");
      const wave = element("img", { class: "wave", alt: `Waveform, ${title}` });
      const mel = element("img", { class: "mel", alt: `Mel spectrogram, ${title}` });
      const head = element("div", { class: "playhead" });
      const pictures = element("div", { class: "pictures", onclick: (event) => {
        view.player.select(lane);
        view.player.seek(((event.clientX - pictures.getBoundingClientRect().left) / pictures.clientWidth) * view.player.seconds);
      } }, wave, mel, head);
      const made = element("div", { class: "lane", "data-lane": view.name(lane.model) }, element("p", {}, title, kind), pictures, ...Object.values(lane.clips));
      view.heads.push(head);
      Object.assign(view.shown.get(lane), { lane: made, kind, wave, mel });
      return made;
    }));
  }

  // Rating.

  function votes() {
    return element("section", { class: "questions", "aria-label": "Pairs" }, ...pairs(view.places).map(([one, other]) => {
      const id = pairId(view.place, one, other);
      const fits = (model) => ({ value: model, text: `${view.name(model)} fits better` });
      const options = [fits(one), { value: NO_DIFFERENCE, text: "No difference" }, fits(other)];
      return element("fieldset", { class: "pair", "data-pair": id },
        element("legend", {}, element("h3", {}, `Which band fits the voice better, ${view.name(one)} or ${view.name(other)}?`)),
        choices(`vote-${id}`, options, state.votes[id], (value) => { state.votes[id] = value; save(); }));
    }));
  }

  function cards() {
    return element("section", { class: "cards", "aria-label": "Ratings" }, ...view.player.lanes.filter((lane) => lane.model !== VOCAL).map((lane) => {
      const listen = element("button", { type: "button", title: `Listen to ${view.title(lane.model)}`, onclick: () => { view.player.select(lane); if (!view.player.playing) view.player.play(); } }, "Listen");
      view.shown.get(lane).buttons.push(listen);
      return element("article", { class: "card", "data-card": view.name(lane.model) },
        element("header", {}, element("h3", {}, view.title(lane.model)), listen),
        ...data.axes.map((axis) => axisOf(lane.model, axis)), commentOf(lane.model));
    }));
  }

  function axisOf(model, axis) {
    const id = `${view.place}.${model}.${axis.name}`;
    const means = { 1: axis.low, 3: axis.middle, 5: axis.high };
    const options = [1, 2, 3, 4, 5].map((value) => ({ value, text: String(value), title: means[value] ? `${value}: ${means[value]}` : String(value) }));
    return element("fieldset", { class: "axis", "data-axis": axis.name }, element("legend", {}, axis.title),
      choices(`score-${id}`, options, state.scores[id], (value) => { state.scores[id] = value; save(); }),
      element("p", { class: "meaning", "aria-hidden": "true" }, element("span", {}, axis.low), element("span", {}, axis.middle), element("span", {}, axis.high)));
  }

  function commentOf(model) {
    const id = `${view.place}.${model}`;
    const text = element("textarea", { rows: 1, maxlength: 2000, oninput: () => { state.comments[id] = text.value; save(); } });
    text.value = state.comments[id] || "";
    return element("label", { class: "field" }, "Comments", text);
  }

  function settings() {
    return element("section", { class: "cards settings", "aria-label": "Settings" }, ...view.places.map((model) => element("article", { class: "card" },
      element("h3", {}, view.name(model)),
      element("dl", {}, ...Object.entries(names.rows[view.place].settings[model]).map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, String(value))))))));
  }

  // Export, in the form that `infer ratings` reads.

  function exported() {
    const ratings = data.rows.flatMap((row, place) => namedOrder(place).flatMap((output) => {
      const given = data.axes.map((axis) => state.scores[`${place}.${output}.${axis.name}`] ?? null);
      const comments = state.comments[`${place}.${output}`] || "";
      if (!comments && given.every((score) => score === null)) return [];
      const overall = given.includes(null) ? null : given.reduce((sum, score) => sum + score, 0) / given.length;
      return [{ sample_id: row.key, model: nameOf(place, output), scores: Object.fromEntries(data.axes.map((axis, i) => [axis.name, given[i]])), comments, overall }];
    }));
    const votes = data.rows.flatMap((row, place) => pairs(namedOrder(place)).flatMap(([one, other]) => {
      const vote = state.votes[pairId(place, one, other)];
      if (vote === undefined) return [];
      return [{ sample_id: row.key, models: [nameOf(place, one), nameOf(place, other)], better: vote === NO_DIFFERENCE ? null : nameOf(place, vote) }];
    }));
    return { rater: state.rater.trim(), seed: state.seed, ratings, pairs: votes };
  }

  function download() {
    if (!state.rater.trim()) {
      say("Write your name first, so that your sheet can be told apart.", true);
      find("rater").focus();
      return;
    }
    const file = new Blob([`${JSON.stringify(exported(), null, 2)}\n`], { type: "application/json" });
    const link = element("a", { href: URL.createObjectURL(file), download: `ratings_${state.rater.trim().replace(/[^\p{L}\p{N}_-]+/gu, "_")}.json` });
    link.click();
    URL.revokeObjectURL(link.href);
    say(`Saved ${link.download}. Collect the sheets of all raters, then: infer ratings ratings_*.json`);
  }

  // Keys.

  function rateByKey(score) {
    const axis = document.activeElement.closest?.(".axis") || [...document.querySelectorAll(`[data-card="${view.name(view.player.selected.model)}"] .axis`)].find((one) => !one.querySelector(":checked"));
    if (!axis) return;
    axis.querySelector(`[value="${score}"]`).click();
    say(`${axis.closest(".card").querySelector("h3").textContent}, ${axis.querySelector("legend").textContent}: ${score}`);
  }

  function voteByKey(choice) {
    const open = document.activeElement.closest?.(".pair") || [...document.querySelectorAll(".pair")].find((one) => !one.querySelector(":checked"));
    if (!open) return;
    const radio = open.querySelectorAll("input")[choice];
    radio.click();
    say(radio.nextSibling.textContent);
  }

  const KEYS = {
    " ": () => view.player.toggle(),
    m: () => setVoice(!state.withVoice),
    arrowleft: () => view.player.seek(view.player.current().currentTime - SKIP_SECONDS),
    arrowright: () => view.player.seek(view.player.current().currentTime + SKIP_SECONDS),
    ",": () => voteByKey(0),
    "-": () => voteByKey(1),
    ".": () => voteByKey(2),
    "[": () => turn(-1),
    "]": () => turn(1),
  };

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.matches("textarea, input:not([type=radio]):not([type=range])")) return;
    const key = event.key.toLowerCase();
    if (key.startsWith("arrow") && target.matches("input")) return; // radios and the slider know their arrows
    if (key === " " && target.matches("button, summary")) return;
    const letter = LETTERS.indexOf(key.toUpperCase());
    const lane = key === "v" ? view.player.lanes[0] : key.length === 1 && letter >= 0 ? view.player.lanes[letter + 1] : null;
    if (lane) view.player.select(lane);
    else if (/^[1-5]$/.test(key)) rateByKey(Number(key));
    else if (Object.hasOwn(KEYS, key)) KEYS[key]();
    else return;
    event.preventDefault();
  });

  // The head of the page.

  function showHead() {
    find("rater").value = state.rater;
    find("seed").value = state.seed;
    document.querySelector(`#mode [value=${state.blind ? "blind" : "named"}]`).checked = true;
  }

  find("rater").addEventListener("input", (event) => { state.rater = event.target.value; save(); });
  find("seed").addEventListener("change", (event) => {
    state.seed = Math.max(0, Math.min(2 ** 32 - 1, Math.floor(Number(event.target.value)) || 0));
    state.turn = 0;
    save();
    showHead();
    show();
  });
  find("mode").addEventListener("change", (event) => {
    const blind = event.target.value === "blind";
    const change = () => {
      state.blind = blind;
      save();
      say(blind ? "" : "Names and settings are shown. Ratings are given blind: go back to rate.");
      show();
    };
    if (blind) change();
    else withNames(change);
  });
  find("export").addEventListener("click", () => withNames(download));
  find("reset").addEventListener("click", () => {
    if (!confirm("Forget every answer on this page and draw a new order? Export first what you want to keep.")) return;
    state = fresh();
    save();
    say("");
    showHead();
    show();
  });

  showHead();
  save();
  if (state.blind) show();
  else withNames(show);
})();
