// Hands the microphone's samples to the page, about 20 ms at a time, as 16-bit integers.
class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.round(sampleRate / 50);
    this.samples = new Int16Array(this.size);
    this.filled = 0;
    this.peak = 0;
  }

  process(inputs) {
    const channel = inputs[0][0];
    if (!channel) return true;
    for (const value of channel) {
      const clipped = Math.max(-1, Math.min(1, value));
      this.peak = Math.max(this.peak, Math.abs(clipped));
      this.samples[this.filled++] = Math.round(clipped * 32767);
      if (this.filled === this.size) {
        this.port.postMessage({ samples: this.samples.buffer, peak: this.peak }, [this.samples.buffer]);
        this.samples = new Int16Array(this.size);
        this.filled = 0;
        this.peak = 0;
      }
    }
    return true;
  }
}
registerProcessor("tap", Tap);
