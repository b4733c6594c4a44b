// How a recording comes in: from the microphone, or as a file.

import * as api from "./api.js";
import { clock, find } from "./dom.js";
import { Recorder } from "./recorder.js";
import { word } from "./words.js";

const LOUD_DB = -3;

// `say(text, bad)` shows a line; `onSession(session)` takes what became of a recording.
export function setUpRecording({ studio, say, onSession }) {
  let recorder = null;
  let state = "idle";

  async function send(blob, name) {
    if (blob.size > studio.max_bytes) {
      say(word("tooLarge", { name, megabytes: Math.round(studio.max_bytes / 1e6) }), true);
      return;
    }
    say(word("sending"));
    try {
      onSession(await api.upload(blob, name));
      say("");
    } catch (error) {
      say(error.message, true);
    }
  }

  function show() {
    const text = { idle: "record", opening: "counting", counting: "counting", taking: "stop" }[state];
    find("record").textContent = word(text);
    find("record").classList.toggle("recording-now", state === "taking");
  }

  function showLevel(db) {
    const meter = find("meter");
    meter.setAttribute("aria-valuenow", Math.round(db));
    meter.classList.toggle("loud", db > LOUD_DB);
    meter.firstElementChild.style.transform = `scaleX(${Math.max(0, (db + 60) / 60)})`;
  }

  async function start() {
    state = "opening";
    show();
    recorder = new Recorder({
      maxSeconds: studio.max_seconds,
      onLevel: showLevel,
      onTime: (seconds) => { find("recorded").textContent = clock(seconds); },
      onFull: stop,
    });
    const own = recorder;
    try {
      await own.open();
      if (find("count-in").checked) {
        state = "counting";
        await own.countIn(Math.min(240, Math.max(40, Number(find("count-in-tempo").value) || 100)));
      }
      if (recorder !== own) return;
      own.take();
      state = "taking";
    } catch (error) {
      own.close();
      recorder = null;
      state = "idle";
      say(word("noMicrophone", { reason: error.name }), true);
    }
    show();
  }

  async function stop() {
    if (!recorder) return;
    const wav = recorder.close();
    recorder = null;
    state = "idle";
    show();
    if (!wav) return say(word("nothingTaken"), true);
    const now = new Date();
    const name = `${word("record")} ${now.toLocaleDateString()} ${now.toLocaleTimeString()}`;
    await send(wav, name);
  }

  const toggle = () => (state === "idle" ? start() : stop());
  find("record").addEventListener("click", toggle);
  find("file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    if (file) send(file, file.name);
    target.value = "";
  });
  const drop = find("drop");
  addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) send(file, file.name);
  });
  show();
  return { toggle };
}
