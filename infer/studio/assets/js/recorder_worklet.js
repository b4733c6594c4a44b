// Hands on what the microphone gives, the first channel, in pieces of about a fortieth of a second.

const PIECE_SAMPLES = 1024;

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(PIECE_SAMPLES);
    this.filled = 0;
  }

  process([input]) {
    for (const sample of input[0] || []) {
      this.piece[this.filled++] = sample;
      if (this.filled === PIECE_SAMPLES) {
        this.port.postMessage(this.piece);
        this.piece = new Float32Array(PIECE_SAMPLES);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
