// The lead sheet over the voice's wave: a box for each bar, whose chords can be written over, and the first downbeat,
// which can be dragged. What is changed is read by the studio, which answers with the sheet as it is then.

import { clock, element, find } from "./dom.js";
import { word } from "./words.js";

const BAR_PIXELS = 58; // a bar is no narrower, so that a long song scrolls
const UNSURE = 0.5;
const DRAWN_LATER_MS = 300; // after a field is left, so that the click which left it meets what it was for

export class SheetTrack {
  constructor({ onEdit, follows }) {
    Object.assign(this, { onEdit, follows });
    find("downbeat").addEventListener("change", ({ target }) => onEdit({ downbeat: Number(target.value) }));
    find("sheet-save").addEventListener("click", () => onEdit({ text: find("sheet-text").value }));
    this.handle = element("i", { class: "downbeat", "aria-hidden": "true" });
    this.handle.addEventListener("pointerdown", (event) => this.drag(event));
  }

  // What is being written into a bar stays there until it is handed in.
  show(sheet, seconds) {
    Object.assign(this, { sheet, seconds });
    if (!this.writing) this.draw();
  }

  draw() {
    const { sheet, seconds } = this;
    const bars = sheet?.bars ?? [];
    const focused = [...find("bars").children].findIndex((item) => item.contains(document.activeElement));
    find("track-inner").style.minWidth = `${bars.length * BAR_PIXELS}px`;
    find("bars").replaceChildren(...bars.map((bar, number) => this.box(bar, number)));
    find("bars").children[focused]?.firstElementChild.focus();
    find("bars").after(this.handle);
    this.handle.hidden = !bars.length;
    this.place(sheet?.downbeat ?? 0);
    find("downbeat").value = bars.length ? sheet.downbeat : "";
    find("downbeat").disabled = !bars.length;
    find("downbeat").max = seconds;
    find("sheet-text").value = sheet?.text ?? "";
    find("sheet-about").textContent = this.about();
  }

  about() {
    const { sheet } = this;
    if (!sheet) return word("noSheet");
    const known = [sheet.key, sheet.tempo && word("bpm", { tempo: Math.round(10 * sheet.tempo) / 10 })].filter(Boolean);
    return [...known, word(this.follows ? "sheetFollowed" : "sheetUnused")].join(" · ");
  }

  at(seconds) {
    return `${100 * Math.min(Math.max(seconds / this.seconds, 0), 1)}%`;
  }

  box(bar, number) {
    const unsure = bar.sure < UNSURE;
    const label = word(unsure ? "barGuess" : "bar", { number: number + 1, at: clock(Math.max(0, bar.start)), chords: bar.chords });
    const button = element("button", { type: "button", "aria-label": label, title: label, onclick: () => this.write(item, bar, number) },
      bar.chords.replaceAll(" .", " ·"));
    const item = element("li", { class: unsure ? "unsure" : "" }, button);
    item.style.left = this.at(bar.start);
    item.style.right = `calc(100% - ${this.at(bar.end)})`;
    item.hidden = bar.start >= this.seconds;
    return item;
  }

  // Its chords become a field; Enter hands them in, Escape leaves them.
  write(item, bar, number) {
    const { sheet } = this;
    const button = item.firstElementChild;
    const field = element("input", { type: "text", value: bar.chords, maxlength: 200, "aria-label": word("barChords", { number: number + 1 }) });
    const done = (chords) => {
      if (this.writing !== field) return;
      this.writing = null;
      item.classList.remove("written");
      item.replaceChildren(button);
      if (chords !== bar.chords) this.onEdit({ bar: { number, chords } });
      if (this.sheet !== sheet) setTimeout(() => this.writing || this.draw(), DRAWN_LATER_MS);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault(); // else Enter would press the button that has the focus then
      done(event.key === "Enter" ? field.value.trim() : bar.chords);
      button.focus();
    });
    field.addEventListener("blur", () => done(field.value.trim()));
    this.writing = field;
    item.classList.add("written");
    item.replaceChildren(field);
    field.select();
  }

  // Keeps what plays in sight.
  follow(seconds) {
    const view = find("track");
    const at = (seconds / this.seconds) * find("track-inner").offsetWidth - view.scrollLeft;
    if (at < 0 || at > view.clientWidth) view.scrollLeft += at - view.clientWidth / 8;
  }

  place(seconds) {
    this.handle.style.left = this.at(seconds);
  }

  drag(event) {
    const { left, width } = find("track-inner").getBoundingClientRect();
    const at = ({ clientX }) => Math.min(Math.max((clientX - left) / width, 0), 1) * this.seconds;
    const moved = (next) => this.place(at(next));
    this.handle.setPointerCapture(event.pointerId);
    this.handle.addEventListener("pointermove", moved);
    this.handle.addEventListener("pointerup", (last) => {
      this.handle.removeEventListener("pointermove", moved);
      this.onEdit({ downbeat: Math.round(1000 * at(last)) / 1000 });
    }, { once: true });
  }
}
