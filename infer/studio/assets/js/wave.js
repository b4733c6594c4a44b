// Waves, drawn by wavesurfer from what the player has decoded; it plays nothing itself.

import WaveSurfer from "../vendor/wavesurfer.esm.js";
import Regions from "../vendor/regions.esm.js";

const PEAKS = 1500;

function peaksOf(buffer) {
  const samples = buffer.getChannelData(0);
  const size = Math.max(1, Math.ceil(samples.length / PEAKS));
  const peaks = [];
  for (let start = 0; start < samples.length; start += size) {
    let highest = 0;
    for (let at = start; at < Math.min(start + size, samples.length); at++) {
      if (Math.abs(samples[at]) > Math.abs(highest)) highest = samples[at];
    }
    peaks.push(highest);
  }
  return peaks;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Wave {
  constructor(container, buffer, { height, onSeek }) {
    container.replaceChildren();
    this.seconds = buffer.duration;
    this.surfer = WaveSurfer.create({
      container,
      height,
      cspNonce: document.getElementById("main").nonce,
      waveColor: colour("--soft"),
      progressColor: colour("--accent"),
      cursorColor: colour("--focus"),
      cursorWidth: 2,
      normalize: true,
      interact: true,
      peaks: [peaksOf(buffer)],
      duration: buffer.duration,
    });
    this.surfer.on("click", (share) => onSeek(share * this.seconds));
  }

  show(seconds) {
    this.surfer.setTime(seconds);
  }

  destroy() {
    this.surfer.destroy();
  }
}

// The voice's wave, on which silences are grey and one part can be chosen.
export class VoiceWave extends Wave {
  constructor(container, buffer, { height, onSeek, silences, onPart }) {
    super(container, buffer, { height, onSeek });
    this.regions = this.surfer.registerPlugin(Regions.create());
    this.part = null;
    const draw = () => {
      for (const [start, end] of silences) {
        this.regions.addRegion({ start, end, drag: false, resize: false, color: "rgba(128, 128, 128, .22)" });
      }
    };
    this.surfer.getDuration() ? draw() : this.surfer.once("ready", draw);
    this.regions.enableDragSelection({ color: "rgba(58, 141, 149, .25)" });
    this.regions.on("region-created", (region) => {
      if (!region.resize) return;
      if (this.part && this.part !== region) this.part.remove();
      this.part = region;
      onPart(region.start, region.end);
    });
    this.regions.on("region-updated", (region) => region === this.part && onPart(region.start, region.end));
  }

  setPart(start, end) {
    if (this.part) this.part.setOptions({ start, end });
    else this.regions.addRegion({ start, end, color: "rgba(58, 141, 149, .25)" });
  }

  clearPart() {
    if (this.part) this.part.remove();
    this.part = null;
  }
}
