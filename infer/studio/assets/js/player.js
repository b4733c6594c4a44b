// One transport for the voice and every take: all play at once from one moment of one clock, and what is heard is a
// matter of gains, so that a switch loses no sample.

const FADE_SECONDS = 0.012;
const LEAD_SECONDS = 0.05;

export class Player {
  constructor(onChange) {
    this.tracks = new Map(); // name -> { buffer, gain, node, source }
    this.selected = null;
    this.playing = false;
    this.seconds = 0;
    this.loop = null; // { start, end }
    this.voiceDb = 0;
    this.muted = false;
    this.solo = false;
    this.at = 0; // position where it stands, or where it started
    this.onChange = onChange;
    this.context = null;
  }

  open() {
    if (!this.context) {
      this.context = new AudioContext({ latencyHint: "interactive" });
      this.master = this.context.createGain();
      this.master.connect(this.context.destination);
    }
    return this.context;
  }

  async decode(bytes) {
    return this.open().decodeAudioData(bytes);
  }

  // `gain` is a factor that matches loudness; the track named "voice" is mixed to the others.
  add(name, buffer, gain, { hasVoice = false } = {}) {
    this.remove(name);
    const node = this.open().createGain();
    node.gain.value = 0;
    node.connect(this.master);
    this.tracks.set(name, { buffer, gain, node, source: null, hasVoice });
    if (name === "voice") this.seconds = buffer.duration;
    if (this.playing) this.begin(this.tracks.get(name), this.context.currentTime + LEAD_SECONDS);
    this.level();
  }

  setGain(name, gain) {
    const track = this.tracks.get(name);
    if (track) track.gain = gain;
    this.level();
  }

  remove(name) {
    const track = this.tracks.get(name);
    if (!track) return;
    this.end(track);
    track.node.disconnect();
    this.tracks.delete(name);
  }

  clear() {
    this.pause();
    for (const name of [...this.tracks.keys()]) this.remove(name);
    this.selected = null;
    this.loop = null;
    this.at = 0;
    this.seconds = 0;
  }

  position(now = this.context ? this.context.currentTime : 0) {
    if (!this.playing) return this.at;
    const passed = this.at + Math.max(0, now - this.started);
    if (this.loop && passed >= this.loop.end) {
      return this.loop.start + ((passed - this.loop.start) % (this.loop.end - this.loop.start));
    }
    return Math.min(passed, this.seconds);
  }

  begin(track, when) {
    const source = this.context.createBufferSource();
    source.buffer = track.buffer;
    source.connect(track.node);
    if (this.loop) {
      source.loop = true;
      source.loopStart = this.loop.start;
      source.loopEnd = this.loop.end;
    }
    source.start(when, Math.min(this.position(when), track.buffer.duration));
    track.source = source;
  }

  end(track) {
    if (track.source) {
      track.source.stop();
      track.source.disconnect();
      track.source = null;
    }
  }

  async play() {
    if (this.playing || !this.tracks.size) return;
    await this.open().resume();
    if (this.at >= this.seconds - 0.01) this.at = 0;
    if (this.loop && (this.at < this.loop.start || this.at >= this.loop.end)) this.at = this.loop.start;
    this.started = this.context.currentTime + LEAD_SECONDS;
    this.playing = true;
    for (const track of this.tracks.values()) this.begin(track, this.started);
    this.level();
    this.onChange();
  }

  pause() {
    if (!this.playing) return;
    this.at = this.position();
    this.playing = false;
    for (const track of this.tracks.values()) this.end(track);
    this.onChange();
  }

  toggle() {
    return this.playing ? this.pause() : this.play();
  }

  // What is playing starts anew at another position.
  async seek(seconds) {
    const was = this.playing;
    this.pause();
    this.at = Math.max(0, Math.min(seconds, this.seconds));
    if (was) await this.play();
    else this.onChange();
  }

  async setLoop(loop) {
    const was = this.playing;
    this.pause();
    this.loop = loop;
    if (was) await this.play();
    else this.onChange();
  }

  select(name) {
    this.selected = name;
    this.level();
    this.onChange();
  }

  level() {
    if (!this.context) return;
    const chosen = this.tracks.get(this.selected);
    const alone = this.selected === "voice" || this.solo;
    for (const [name, track] of this.tracks) {
      let gain = 0;
      if (name === "voice") {
        const silent = this.muted || (chosen && chosen.hasVoice && !alone);
        gain = silent && !alone ? 0 : track.gain * 10 ** (this.voiceDb / 20);
      } else if (name === this.selected && !alone) {
        gain = track.gain;
      }
      const now = this.context.currentTime;
      track.node.gain.cancelScheduledValues(now);
      track.node.gain.setTargetAtTime(gain, now, FADE_SECONDS / 3);
    }
  }

  // Ends a pass over all of it; called with each picture.
  tick() {
    if (this.playing && !this.loop && this.position() >= this.seconds) {
      this.pause();
      this.at = 0;
      this.onChange();
    }
  }
}
