// A recording from the microphone as it comes, without what browsers do to speech: a WAV of floats.

const METER_FLOOR_DB = -60;

export class Recorder {
  constructor({ onLevel, onTime, onFull, maxSeconds }) {
    Object.assign(this, { onLevel, onTime, onFull, maxSeconds });
    this.chunks = [];
    this.samples = 0;
    this.taking = false;
  }

  // Opens the microphone; what it gives is metered, and taken once `take` is called.
  async open() {
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 },
    });
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("/assets/js/recorder_worklet.js");
    const source = this.context.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0 });
    this.node.port.onmessage = ({ data }) => this.receive(data);
    source.connect(this.node);
    await this.context.resume();
  }

  // Four clicks at a tempo; the promise ends when the fifth would come.
  async countIn(bpm) {
    const first = this.context.currentTime + 0.1;
    const beat = 60 / bpm;
    for (let number = 0; number < 4; number++) {
      const click = this.context.createOscillator();
      const gain = this.context.createGain();
      click.frequency.value = number === 0 ? 1600 : 1100;
      gain.gain.setValueAtTime(0.3, first + number * beat);
      gain.gain.exponentialRampToValueAtTime(0.001, first + number * beat + 0.05);
      click.connect(gain).connect(this.context.destination);
      click.start(first + number * beat);
      click.stop(first + number * beat + 0.06);
    }
    await new Promise((done) => setTimeout(done, 1000 * (first + 4 * beat - this.context.currentTime)));
  }

  take() {
    this.taking = true;
  }

  receive(chunk) {
    let peak = 0;
    for (const sample of chunk) peak = Math.max(peak, Math.abs(sample));
    this.onLevel(Math.max(METER_FLOOR_DB, 20 * Math.log10(peak || 1e-9)));
    if (!this.taking) return;
    this.chunks.push(chunk);
    this.samples += chunk.length;
    const seconds = this.samples / this.context.sampleRate;
    this.onTime(seconds);
    if (seconds >= this.maxSeconds - 0.1) {
      this.taking = false;
      this.onFull();
    }
  }

  // The recording; null where nothing was taken.
  close() {
    this.taking = false;
    const rate = this.context ? this.context.sampleRate : 0;
    for (const track of this.stream ? this.stream.getTracks() : []) track.stop();
    if (this.context) this.context.close();
    this.onLevel(METER_FLOOR_DB);
    return this.samples ? wavOf(this.chunks, this.samples, rate) : null;
  }
}

function wavOf(chunks, samples, rate) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, place) => header.setUint8(at + place, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + 4 * samples, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 3, true); // floats
  header.setUint16(22, 1, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, 4 * rate, true);
  header.setUint16(32, 4, true);
  header.setUint16(34, 32, true);
  text(36, "data");
  header.setUint32(40, 4 * samples, true);
  return new Blob([header, ...chunks], { type: "audio/wav" });
}
