// 声音线程里的增强器：WebAssembly 的内核、任意采样率的重采样、环形缓冲。主线程也载入本文件，用 LstmEngine 量快慢。
// 除了打开模型与往主线程发消息，什么也不分配：垃圾回收的一停就是一声“咔”。
(() => {
  // 内核的一个实例；一个实例里可以开几个增强器（float32 与 int8 各一个）
  class LstmEngine {
    constructor(module) {
      this.exports = new WebAssembly.Instance(new WebAssembly.Module(module), {}).exports;
      this.exports._initialize();
    }

    // 模型文件的字节 → 增强器；文件不能用就抛 Error，说的是 C 那边的话
    open(model, int8) {
      const x = this.exports;
      const file = x.allocate(model.length);
      if (!file) throw new Error("内存不够");
      new Uint8Array(x.memory.buffer).set(model, file);
      const handle = x.open(file, model.length, int8 ? 1 : 0, 1);
      x.release(file);
      if (!handle) throw new Error(this.complaint());
      const facts = new Int32Array(x.memory.buffer, x.info(handle), 8);
      const [rate, hop, latency, , quantized, , inputs] = facts;
      const chain = { handle, rate, hop, latency, quantized, inputs, bins: latency / 2 + 1 };
      chain.input = x.allocate(4 * hop);
      chain.output = x.allocate(4 * hop);
      if (!chain.input || !chain.output) throw new Error("内存不够");
      chain.maskAt = x.mask(handle);
      chain.spectrumAt = x.spectrum(handle);
      return chain;
    }

    // 打开之后内存可能换了地方，视图要重新取
    view(chain) {
      const buffer = this.exports.memory.buffer;
      chain.in = new Float32Array(buffer, chain.input, chain.hop);
      chain.out = new Float32Array(buffer, chain.output, chain.hop);
      chain.mask = new Float32Array(buffer, chain.maskAt, chain.bins);
      chain.spectrum = new Float32Array(buffer, chain.spectrumAt, chain.inputs);
    }

    process(chain) {
      return this.exports.process(chain.handle, chain.input, chain.output, 1);
    }

    reset(chain) {
      this.exports.reset(chain.handle);
    }

    complaint() {
      const bytes = new Uint8Array(this.exports.memory.buffer);
      const start = this.exports.error_message();
      const text = bytes.slice(start, bytes.indexOf(0, start));
      // 声音线程里没有 TextDecoder
      return decodeURIComponent(Array.from(text, (b) => "%" + b.toString(16).padStart(2, "0")).join(""));
    }
  }

  // 定长的环；满了丢最旧的不行，声音会错位，所以大小由使用者算够
  class Ring {
    constructor(size) {
      this.data = new Float32Array(size);
      this.from = this.count = 0;
    }

    push(value) {
      this.data[(this.from + this.count++) % this.data.length] = value;
    }

    shift() {
      const value = this.data[this.from];
      this.from = (this.from + 1) % this.data.length;
      this.count--;
      return value;
    }
  }

  const gcd = (a, b) => (b ? gcd(b, a % b) : a);

  // 流式重采样：凯泽窗的 sinc，按 to/from 约分之后的相位排好系数。延迟 delay 个输入样点。
  class Resampler {
    constructor(from, to, crossings = 16) {
      const common = gcd(from, to);
      this.up = to / common;
      this.down = from / common;
      const cutoff = Math.min(1, to / from) * 0.92;
      const half = Math.ceil(crossings / cutoff);
      this.taps = 2 * half;
      this.delay = half;
      this.filters = new Float32Array(this.up * this.taps);
      for (let phase = 0; phase < this.up; phase++) {
        let sum = 0;
        const row = this.filters.subarray(phase * this.taps, (phase + 1) * this.taps);
        for (let k = 0; k < this.taps; k++) {
          const t = k - half + 1 - phase / this.up; // 到输出时刻的距离，单位是输入样点
          const x = Math.PI * cutoff * t;
          row[k] = (Math.abs(x) < 1e-9 ? 1 : Math.sin(x) / x) * kaiser(t / half);
          sum += row[k];
        }
        for (let k = 0; k < this.taps; k++) row[k] /= sum;
      }
      this.line = new Float32Array(2 * this.taps); // 写两遍，取出来总是连续的
      this.at = this.phase = 0;
    }

    // 送进一个样点，出来的几个样点推进 ring
    push(value, ring) {
      const { line, taps, filters } = this;
      line[this.at] = line[this.at + taps] = value;
      this.at = (this.at + 1) % taps;
      for (; this.phase < this.up; this.phase += this.down) {
        const row = this.phase * taps;
        let sum = 0;
        for (let k = 0; k < taps; k++) sum += filters[row + k] * line[this.at + k];
        ring.push(sum);
      }
      this.phase -= this.up;
    }
  }

  function kaiser(x) {
    return Math.abs(x) >= 1 ? 0 : bessel(9 * Math.sqrt(1 - x * x)) / bessel(9);
  }

  function bessel(x) {
    let sum = 1;
    for (let k = 1, term = 1; k < 40; k++) sum += term *= (x / 2 / k) ** 2;
    return sum;
  }

  const BATCH = 4; // 几帧的谱合成一条消息
  const RAMP = 0.02; // 秒：强度、切换都在这么长里渐变

  // 整条链：一个样点一个样点地进，一个样点一个样点地出，采样率任意
  class LstmLive {
    constructor({ module, model, int8, rate, strength = 1, seconds = 10 }) {
      this.engine = new LstmEngine(module);
      this.chains = { int8: null, float32: null };
      this.using = int8 ? "int8" : "float32";
      const chain = (this.chains[this.using] = this.engine.open(model, int8));
      this.engine.view(chain);
      this.rate = chain.rate;
      this.hop = chain.hop;
      this.lag = chain.latency - chain.hop; // 增强的一路晚多少
      this.outer = rate;
      const same = rate === this.rate;
      this.down = same ? null : new Resampler(rate, this.rate);
      this.up = same ? null : new Resampler(this.rate, rate);
      const exact = (this.hop * rate) / this.rate; // 一个帧移是外面的多少个样点
      const span = Math.ceil(exact) + 2;
      this.inner = new Ring(8 * this.hop + 512);
      this.ready = new Ring(4 * span + 8 * this.hop + 1024);
      // 先垫这么多零，以后每次要 128 个总拿得出；帧移正好是 128 的倍数时，凑满的那一次就能用上
      this.prefill = exact % 128 ? span : exact - 128;
      for (let k = 0; k < this.prefill; k++) this.ready.push(0);
      this.dry = new Float32Array(this.hop + this.lag); // 没有增强的一路也晚同样多，切换时才不错位
      this.fresh = this.dry.subarray(this.lag);
      this.strength = this.target = strength;
      this.mix = this.mixTarget = int8 ? 0 : 1; // 0：int8；1：float32
      this.block = new Float32Array(this.hop);
      this.frames = this.bad = this.busy = this.timed = 0;
      this.clock = globalThis.performance?.now ? () => performance.now() : () => Date.now();
      const { inputs } = chain;
      this.batch = { spectrum: new Uint8Array(BATCH * inputs), mask: new Uint8Array(BATCH * inputs), count: 0 };
      this.tape = { noisy: new Float32Array(seconds * this.rate), enhanced: new Float32Array(seconds * this.rate), at: -1 };
      this.quiet = false;
      this.onframes = this.onrecorded = null;
    }

    // 从进到出的延迟，单位是外面的样点
    get latency() {
      const resampling = this.down ? this.down.delay + (this.up.delay * this.outer) / this.rate : 0;
      return Math.round(this.prefill + resampling + (this.lag * this.outer) / this.rate);
    }

    // 另开一个增强器；要花几毫秒到几十毫秒
    add(name, model) {
      if (this.chains[name]) return;
      const chain = this.engine.open(model, name === "int8");
      for (const key of ["rate", "hop", "latency", "inputs"])
        if (chain[key] !== this.chains[this.using][key]) throw new Error("两个模型的帧移或采样率不同");
      this.chains[name] = chain;
      for (const each of Object.values(this.chains)) if (each) this.engine.view(each);
    }

    use(name) {
      if (!this.chains[name]) throw new Error("还没有载入 " + name + " 的模型");
      this.using = name;
      this.mixTarget = name === "float32" ? 1 : 0;
    }

    reset() {
      for (const chain of Object.values(this.chains)) if (chain) this.engine.reset(chain);
      this.dry.fill(0);
    }

    record() {
      this.tape.at = 0;
    }

    // input：各声道的 Float32Array（可以一个也没有）；output：一个声道，一样长
    process(input, output) {
      const { inner, ready, down } = this;
      for (let k = 0; k < output.length; k++) {
        let value = 0;
        for (let c = 0; c < input.length; c++) value += input[c][k] / input.length;
        const size = Math.abs(value);
        if (!(size <= 8) || size < 1e-20) value = 0; // 坏样点不让它进去；太小的会变成非规格化数，慢好几倍
        if (down) down.push(value, inner);
        else inner.push(value);
      }
      while (inner.count >= this.hop) this.step();
      for (let k = 0; k < output.length; k++) output[k] = ready.count ? ready.shift() : 0;
    }

    // 一个帧移
    step() {
      const { hop, lag, dry, block, chains, ready, up, tape } = this;
      dry.copyWithin(0, hop);
      for (let k = 0; k < hop; k++) dry[lag + k] = this.inner.shift();
      const before = this.clock();
      // 两个模型都在跑：换过去时状态是热的
      for (const name in chains) {
        const chain = chains[name];
        if (!chain) continue;
        chain.in.set(this.fresh);
        if (this.engine.process(chain)) chain.out.fill(0), this.bad++;
      }
      this.busy += this.clock() - before;
      this.timed++;
      const a = (chains.int8 || chains.float32).out;
      const b = (chains.float32 || chains.int8).out;
      const step = 1 / (RAMP * this.rate);
      for (let k = 0; k < hop; k++) {
        this.strength = toward(this.strength, this.target, step);
        this.mix = toward(this.mix, this.mixTarget, step);
        const wet = a[k] + this.mix * (b[k] - a[k]);
        block[k] = dry[k] + this.strength * (wet - dry[k]);
        if (tape.at >= 0 && tape.at < tape.noisy.length) {
          tape.noisy[tape.at] = dry[k];
          tape.enhanced[tape.at++] = wet;
        }
      }
      if (up) for (let k = 0; k < hop; k++) up.push(block[k], ready);
      else for (let k = 0; k < hop; k++) ready.push(block[k]);
      this.frames++;
      this.note(chains[this.using]);
      if (tape.at === tape.noisy.length) {
        tape.at = -1;
        this.onrecorded?.(tape);
      }
    }

    // 谱与掩蔽压成字节：-60…+40 dB、0…1
    note(chain) {
      const { batch } = this;
      if (this.quiet || !this.onframes) return;
      const n = chain.inputs;
      const first = chain.bins - n;
      const at = batch.count * n;
      for (let k = 0; k < n; k++) {
        batch.spectrum[at + k] = Math.min(255, Math.max(0, (20 * Math.log10(chain.spectrum[k] + 1e-9) + 60) * 2.55));
        batch.mask[at + k] = Math.round(255 * Math.min(1, Math.max(0, chain.mask[k + first])));
      }
      if (++batch.count === BATCH) {
        this.onframes(batch);
        batch.count = 0;
      }
    }
  }

  function toward(value, target, step) {
    return value < target ? Math.min(target, value + step) : Math.max(target, value - step);
  }

  Object.assign(globalThis, { LstmEngine, LstmLive, LstmResampler: Resampler, LstmRing: Ring });
  if (!globalThis.registerProcessor) return;

  registerProcessor(
    "lstm-live",
    class extends AudioWorkletProcessor {
      constructor({ processorOptions }) {
        super();
        this.alive = true;
        try {
          this.live = new LstmLive({ ...processorOptions, rate: Math.round(sampleRate) });
        } catch (error) {
          this.port.postMessage({ type: "error", text: String(error.message || error) });
          this.alive = false;
          return;
        }
        const { live, port } = this;
        live.onframes = ({ spectrum, mask }) => {
          const milliseconds = live.timed ? live.busy / live.timed : 0;
          port.postMessage({ type: "frames", spectrum, mask, strength: live.target, milliseconds, frames: live.frames, bad: live.bad, memory: live.engine.exports.memory.buffer.byteLength, time: currentTime, wall: Date.now() });
          if (live.timed > 600) live.busy /= 2, live.timed /= 2; // 只看最近十秒
        };
        live.onrecorded = ({ noisy, enhanced }) => port.postMessage({ type: "recorded", noisy, enhanced, rate: live.rate });
        port.onmessage = ({ data }) => this.command(data);
        port.postMessage({ type: "ready", rate: live.rate, hop: live.hop, latency: live.latency / sampleRate, using: live.using });
      }

      command(data) {
        const { live, port } = this;
        try {
          if (data.type === "strength") live.target = data.value;
          else if (data.type === "use") live.use(data.name);
          else if (data.type === "quiet") live.quiet = data.value;
          else if (data.type === "record") live.record();
          else if (data.type === "reset") live.reset();
          else if (data.type === "stop") this.alive = false;
          else if (data.type === "add") {
            live.add(data.name, data.model);
            port.postMessage({ type: "added", name: data.name });
          }
        } catch (error) {
          port.postMessage({ type: "error", text: String(error.message || error) });
        }
      }

      process([input], [output]) {
        if (!this.alive) return false;
        this.live.process(input, output[0]);
        for (let c = 1; c < output.length; c++) output[c].set(output[0]);
        return true;
      }
    },
  );
})();
