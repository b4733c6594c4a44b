// What was measured of the voice, how sure each figure is, and what of it the band is told.

import { element, find } from "./dom.js";
import { word } from "./words.js";

const TONICS = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];
const KEYS = ["major", "minor"].flatMap((mode) => TONICS.map((tonic) => `${tonic} ${mode}`));
const [LIKELY, SURE] = [0.25, 0.6];

const sureness = (share, found) => (found ? word(share >= SURE ? "sure" : share >= LIKELY ? "likely" : "guess") : word("none"));

function shown(name, ...content) {
  return element("div", {}, element("dt", {}, word(name)), ...content);
}

// What the band is told of tempo and key is what is ticked; an edit ticks it.
export class VoiceCard {
  constructor(onChange) {
    this.onChange = onChange;
    this.told = { tempo: false, key: false };
  }

  show(voice) {
    this.told = { tempo: false, key: false };
    this.tempo = element("input", { type: "number", min: 30, max: 300, step: 0.1, value: voice.tempo_bpm ?? "", "aria-label": word("tempo"), onchange: () => this.tell("tempo") });
    const keys = voice.key && !KEYS.includes(voice.key) ? [voice.key, ...KEYS] : KEYS;
    this.key = element("select", { "aria-label": word("key"), onchange: () => this.tell("key") },
      ...["", ...keys].map((key) => element("option", { value: key, selected: key === (voice.key ?? "") }, key || "–")));
    const times = (factor) => () => {
      this.tempo.value = Math.round(10 * factor * Number(this.tempo.value)) / 10 || "";
      this.tell("tempo");
    };
    this.ticks = { tempo: this.tick("tempo"), key: this.tick("key") };
    find("measured").replaceChildren(
      shown("tempo", element("dd", {}, this.tempo,
        element("button", { type: "button", "aria-label": `${word("half")} ${word("halfLabel")}`, onclick: times(0.5) }, word("half")),
        element("button", { type: "button", "aria-label": `${word("double")} ${word("doubleLabel")}`, onclick: times(2) }, word("double"))),
        element("dd", {}, element("small", {}, sureness(voice.tempo_sure, voice.tempo_bpm)), this.ticks.tempo.label)),
      shown("key", element("dd", {}, this.key), element("dd", {}, element("small", {}, sureness(voice.key_sure, voice.key)), this.ticks.key.label)),
      shown("range", element("dd", {}, voice.low_note ? `${voice.low_note} – ${voice.high_note}` : word("none"))),
      shown("length", element("dd", {}, word("seconds", { seconds: voice.seconds.toFixed(2) }))),
      shown("loudness", element("dd", {}, `${voice.lufs.toFixed(1)} LUFS`), element("dd", {}, element("small", {}, `${voice.peak_dbfs.toFixed(1)} dBFS`))),
    );
  }

  tick(name) {
    const box = element("input", { type: "checkbox", id: `tell-${name}`, onchange: () => { this.told[name] = box.checked; this.onChange(); } });
    return { box, label: element("label", { class: "check" }, box, element("span", {}, word("inTags"))) };
  }

  tell(name) {
    this.told[name] = true;
    this.ticks[name].box.checked = true;
    this.onChange();
  }

  // As tags.
  tags() {
    const tempo = this.told.tempo && Number(this.tempo.value) ? [`${Math.round(Number(this.tempo.value))}bpm`] : [];
    return [...tempo, ...(this.told.key && this.key.value ? [this.key.value] : [])];
  }
}
