// What is known of the voice, how sure it is, and what of it the band is told by tags. Tempo and key are those of the
// lead sheet.

import { element, find } from "./dom.js";
import { word } from "./words.js";

const TONICS = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];
const KEYS = ["major", "minor"].flatMap((mode) => TONICS.map((tonic) => `${tonic} ${mode}`));
const [LIKELY, SURE] = [0.5, 0.8];

const sureness = (share) => word(share === null || share === undefined ? "none" : share >= SURE ? "sure" : share >= LIKELY ? "likely" : "guess");

function shown(name, ...content) {
  return element("div", {}, element("dt", {}, word(name)), ...content);
}

// What the band is told of tempo and key is what is ticked; an edit ticks it.
export class VoiceCard {
  constructor({ onChange, onEdit }) {
    Object.assign(this, { onChange, onEdit });
    this.told = { tempo: false, key: false };
  }

  show(voice, sheet) {
    this.told = { tempo: false, key: false };
    this.tempo = element("input", { type: "number", min: 20, max: 400, step: 0.1, "aria-label": word("tempo"), onchange: () => this.setTempo(Number(this.tempo.value)) });
    this.key = element("select", { "aria-label": word("key"), onchange: () => this.edit("key", this.key.value) });
    const times = (factor) => () => this.sheet?.tempo && this.setTempo(Math.round(1000 * factor * this.sheet.tempo) / 1000);
    this.ticks = { tempo: this.tick("tempo"), key: this.tick("key") };
    this.sure = { tempo: element("small"), key: element("small") };
    find("measured").replaceChildren(
      shown("tempo", element("dd", {}, this.tempo,
        element("button", { type: "button", "aria-label": `${word("half")} ${word("halfLabel")}`, onclick: times(0.5) }, word("half")),
        element("button", { type: "button", "aria-label": `${word("double")} ${word("doubleLabel")}`, onclick: times(2) }, word("double"))),
        element("dd", {}, this.sure.tempo, this.ticks.tempo.label)),
      shown("key", element("dd", {}, this.key), element("dd", {}, this.sure.key, this.ticks.key.label)),
      shown("range", element("dd", {}, voice.low_note ? `${voice.low_note} – ${voice.high_note}` : word("none"))),
      shown("length", element("dd", {}, word("seconds", { seconds: voice.seconds.toFixed(2) }))),
      shown("loudness", element("dd", {}, `${voice.lufs.toFixed(1)} LUFS`), element("dd", {}, element("small", {}, `${voice.peak_dbfs.toFixed(1)} dBFS`))),
    );
    this.showSheet(sheet);
  }

  showSheet(sheet) {
    this.sheet = sheet;
    this.tempo.value = sheet?.tempo ? Math.round(10 * sheet.tempo) / 10 : "";
    const keys = sheet?.key && !KEYS.includes(sheet.key) ? [sheet.key, ...KEYS] : KEYS;
    this.key.replaceChildren(...["", ...keys].map((key) => element("option", { value: key, selected: key === (sheet?.key ?? "") }, key || "–")));
    this.sure.tempo.textContent = sureness(sheet?.tempo_sure);
    this.sure.key.textContent = sureness(sheet?.key_sure);
  }

  setTempo(tempo) {
    if (tempo) this.edit("tempo", tempo);
  }

  edit(name, value) {
    this.told[name] = true;
    this.ticks[name].box.checked = true;
    this.onEdit({ [name]: value });
  }

  tick(name) {
    const box = element("input", { type: "checkbox", id: `tell-${name}`, onchange: () => { this.told[name] = box.checked; this.onChange(); } });
    return { box, label: element("label", { class: "check" }, box, element("span", {}, word("inTags"))) };
  }

  // As tags.
  tags() {
    const tempo = this.told.tempo && this.sheet?.tempo ? [`${Math.round(this.sheet.tempo)}bpm`] : [];
    return [...tempo, ...(this.told.key && this.sheet?.key ? [this.sheet.key] : [])];
  }
}
