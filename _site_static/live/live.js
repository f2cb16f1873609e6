// 页面里的增强器：声源、开关、语谱图、录音。按了“开始”才载入模块与模型；声音不离开这一页。
(() => {
  const SECONDS = 10;
  const SLOW = 8; // 毫秒：一帧有 16 ms，用掉一半就算慢
  const LOUDEST = 8; // 满幅是 1；声音线程把再大的当坏样点，换成零
  const COLUMNS = 600; // 语谱图记多少帧：9.6 秒

  const loading = new Map();
  // 载入一个脚本，只载一次；失败了下次还能再试
  function loadScript(address) {
    if (!loading.has(address)) {
      const promise = new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = address;
        script.onload = resolve;
        script.onerror = () => {
          loading.delete(address);
          script.remove();
          reject(new Problem("data", "有一个文件没有载入：请检查网络，或刷新这一页再试。"));
        };
        document.head.append(script);
      });
      loading.set(address, promise);
    }
    return loading.get(address);
  }

  // 讲给读者听的错误；state 是页面的哪一种状态
  class Problem extends Error {
    constructor(state, text) {
      super(text);
      this.state = state;
    }
  }

  function bytes(base64) {
    const text = atob(base64);
    const out = new Uint8Array(text.length);
    for (let k = 0; k < text.length; k++) out[k] = text.charCodeAt(k);
    return out;
  }

  // 浏览器收得下的最快的模块
  function chooseModule(modules) {
    if (typeof WebAssembly !== "object") throw new Problem("nosimd", "这个浏览器没有 WebAssembly，请换一个新的浏览器。");
    for (const level of ["wasm_relaxed", "wasm"]) {
      const module = bytes(modules[level]);
      if (WebAssembly.validate(module)) return { level, module };
    }
    throw new Problem("nosimd", "这个浏览器的 WebAssembly 没有 SIMD（Chrome 91、Firefox 89、Safari 16.4 起才有），请升级浏览器。");
  }

  async function loadEngine(root) {
    await loadScript(`${root}/engine.js`);
    const data = window.lstmLiveData;
    if (data.missing) throw new Problem("data", data.missing);
    if (!window.LstmEngine) {
      const script = document.createElement("script");
      script.textContent = data.worklet;
      document.head.append(script);
    }
    return { ...chooseModule(data.modules), model: bytes(data.int8), worklet: data.worklet };
  }

  async function loadFloat(root) {
    await loadScript(`${root}/float32.js`);
    return bytes(window.lstmLiveData.float32);
  }

  // 声音线程的脚本由一个网址载入，这里的网址是脚本自己：从磁盘打开的页面里 Chrome 只收 data:，别处 blob: 更省
  async function addWorklet(context, source) {
    const data = `data:text/javascript;charset=utf-8,${encodeURIComponent(source)}`;
    if (location.protocol === "file:") {
      try {
        return await context.audioWorklet.addModule(data);
      } catch {
        // 再试 blob:
      }
    }
    const blob = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    try {
      await context.audioWorklet.addModule(blob);
    } finally {
      URL.revokeObjectURL(blob);
    }
  }

  // 没有声音输出的机器上，Firefox 的 resume 永远等不来
  async function wake(context) {
    await Promise.race([context.resume(), new Promise((resolve) => setTimeout(resolve, 8000))]);
    if (context.state !== "running") throw new Problem("nosound", "浏览器放不出声音：请接上扬声器或耳机，看看系统里选的声音输出，再按「开始」。");
  }

  // 在主线程上量一帧要多少毫秒：声音线程里没有细的钟。取几段的中位数。
  function measure(module, model, int8, frames = 60) {
    const engine = new LstmEngine(module);
    const chain = engine.open(model, int8);
    engine.view(chain);
    for (let k = 0; k < chain.hop; k++) chain.in[k] = 0.1 * Math.sin(k * 0.37) + 0.05 * Math.sin(k * 1.7);
    for (let k = 0; k < 20; k++) engine.process(chain); // 热身
    const times = [];
    for (let round = 0; round < 5; round++) {
      const start = performance.now();
      for (let k = 0; k < frames; k++) engine.process(chain);
      times.push((performance.now() - start) / frames);
    }
    return times.sort((a, b) => a - b)[2];
  }

  // 离线：16 kHz 的样点进、样点出，与声音线程里是同一段程序；延迟已经去掉。供检验与没有 AudioWorklet 的页面用
  function render(module, model, int8, samples, { rate = 16000, strength = 1 } = {}) {
    const live = new LstmLive({ module, model, int8, rate, strength, seconds: 0 });
    const total = Math.ceil((samples.length + live.latency) / 128) * 128;
    const out = new Float32Array(total);
    const block = new Float32Array(128);
    for (let start = 0; start < total; start += 128) {
      block.fill(0);
      if (start < samples.length) block.set(samples.subarray(start, Math.min(start + 128, samples.length)));
      live.process([block], out.subarray(start, start + 128));
    }
    return out.slice(live.latency, live.latency + samples.length);
  }

  function wav(samples, rate) {
    const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
    const text = (at, word) => [...word].forEach((c, k) => view.setUint8(at + k, c.charCodeAt(0)));
    text(0, "RIFF"), view.setUint32(4, 36 + 2 * samples.length, true), text(8, "WAVEfmt ");
    view.setUint32(16, 16, true), view.setUint16(20, 1, true), view.setUint16(22, 1, true);
    view.setUint32(24, rate, true), view.setUint32(28, 2 * rate, true);
    view.setUint16(32, 2, true), view.setUint16(34, 16, true);
    text(36, "data"), view.setUint32(40, 2 * samples.length, true);
    samples.forEach((s, k) => view.setInt16(44 + 2 * k, Math.max(-32768, Math.min(32767, Math.round(s * 32768))), true));
    return new Blob([view], { type: "audio/wav" });
  }

  // ---- 语谱图：三条一起走，新的在右边 ----

  const STOPS = [[0, 0, 4], [40, 17, 89], [101, 26, 128], [159, 47, 127], [213, 72, 104], [245, 125, 91], [254, 191, 132], [252, 253, 191]];
  const COLORS = new Uint8ClampedArray(4 * 256);
  for (let k = 0; k < 256; k++) {
    const at = (k / 255) * (STOPS.length - 1);
    const low = Math.min(STOPS.length - 2, Math.floor(at));
    for (let c = 0; c < 3; c++) COLORS[4 * k + c] = STOPS[low][c] + (at - low) * (STOPS[low + 1][c] - STOPS[low][c]);
    COLORS[4 * k + 3] = 255;
  }
  const shade = (level) => Math.max(0, Math.min(255, (level - 90) * 1.7)); // 字节 → 亮度，约 -25 到 +35 dB

  class Scroll {
    constructor(canvas, bins) {
      this.canvas = canvas;
      canvas.width = COLUMNS;
      canvas.height = bins;
      this.context = canvas.getContext("2d", { willReadFrequently: true });
      this.context.fillRect(0, 0, COLUMNS, bins);
    }

    // columns：各列的亮度 0…255，低频在前
    draw(columns) {
      const { canvas, context } = this;
      const count = columns.length;
      const image = context.createImageData(count, canvas.height);
      columns.forEach((column, x) => {
        for (let k = 0; k < canvas.height; k++) {
          const color = 4 * (column[k] | 0);
          const at = 4 * ((canvas.height - 1 - k) * count + x);
          for (let c = 0; c < 4; c++) image.data[at + c] = COLORS[color + c];
        }
      });
      context.drawImage(canvas, -count, 0);
      context.putImageData(image, COLUMNS - count, 0);
    }
  }

  // ---- 页面 ----

  const STATES = {
    idle: "按「开始」才从本站载入内核、模型与场景，三兆多字节，压缩传输的少些；换 float32 时再取一次。",
    loading: "正在载入内核与模型……",
    running: "正在播放。",
    paused: "停住了。",
    hidden: "页面在后台：声音照常，语谱图停画。",
    interrupted: "系统暂停了声音（来电、锁屏或别的程序占用）：按「继续」。",
  };

  const TEMPLATE = `
    <div class="live-row" role="group" aria-label="声源">
      <label><span>声源</span><select class="live-source">
        <option value="scene">书里的带噪场景</option><option value="file">我的声音文件</option><option value="mic">麦克风</option>
      </select></label>
      <span class="live-scene-options">
        <label><span>语音</span><select class="live-scene" disabled><option>开始后可选</option></select></label>
        <label><span>噪声</span><select class="live-noise" disabled><option>开始后可选</option></select></label>
        <label><span>信噪比 <output class="live-snr-value">0</output> dB</span><input class="live-snr" disabled type="range" min="-10" max="20" step="1" value="0"></label>
      </span>
      <label class="live-file-options" hidden><span>文件</span><input class="live-file" type="file" accept="audio/*,.wav,.flac,.mp3,.ogg,.m4a"></label>
      <span class="live-mic-options" hidden>按「开始」时浏览器会问你要不要给麦克风。声音只在这一页里处理，不上传，也不保存。请戴耳机，免得啸叫。</span>
    </div>
    <div class="live-row">
      <button type="button" class="live-start">开始</button>
      <fieldset class="live-choice"><legend>听哪一路</legend>
        <label><input type="radio" value="0" class="live-noisy"> 带噪</label>
        <label><input type="radio" value="1" class="live-enhanced" checked> 增强</label>
      </fieldset>
      <label><span>掩蔽的强度 <output class="live-strength-value">100%</output></span><input class="live-strength" type="range" min="0" max="100" value="100"></label>
      <fieldset class="live-choice"><legend>算法</legend>
        <label><input type="radio" value="int8" class="live-int8" checked> int8</label>
        <label><input type="radio" value="float32" class="live-float32"> float32</label>
      </fieldset>
    </div>
    <p class="live-status" role="status"></p>
    <p class="live-hint">下面是一段带噪语音的例子；开始之后换成正在放的声音。</p>
    <div class="live-pictures">
      <figure><figcaption>增强前</figcaption><img class="live-still" alt="" src="ROOT/before.webp"><canvas hidden class="live-before" role="img" aria-label="增强前的语谱图：横轴是最近十秒，纵轴 0 到 8 kHz"></canvas></figure>
      <figure><figcaption>掩蔽</figcaption><img class="live-still" alt="" src="ROOT/mask.webp"><canvas hidden class="live-mask" role="img" aria-label="掩蔽：越亮越接近 1"></canvas></figure>
      <figure><figcaption>增强后</figcaption><img class="live-still" alt="" src="ROOT/after.webp"><canvas hidden class="live-after" role="img" aria-label="增强后的语谱图"></canvas></figure>
    </div>
    <dl class="live-numbers">
      <div><dt>每帧用时</dt><dd class="live-time">—</dd></div>
      <div><dt>实时率</dt><dd class="live-factor">—</dd></div>
      <div><dt>延迟</dt><dd class="live-latency">—</dd></div>
      <div><dt>断音</dt><dd class="live-gaps">—</dd></div>
      <div><dt>内核</dt><dd class="live-level">—</dd></div>
    </dl>
    <div class="live-row"><button type="button" class="live-record" disabled>录十秒</button><span class="live-takes"></span></div>`;

  class Page {
    constructor(box) {
      this.box = box;
      this.root = box.dataset.root;
      box.innerHTML = TEMPLATE.replaceAll("ROOT", this.root);
      this.$ = (name) => box.querySelector(`.live-${name}`);
      const group = `lstm-live-${document.querySelectorAll(".lstm-live").length}-${Math.random().toString(36).slice(2)}`;
      for (const name of ["noisy", "enhanced"]) this.$(name).name = `${group}-path`;
      for (const name of ["int8", "float32"]) this.$(name).name = `${group}-math`;
      this.$("source").onchange = () => this.chooseSource();
      this.$("start").onclick = () => this.toggle();
      this.$("noisy").onchange = this.$("enhanced").onchange = () => this.sendStrength();
      this.$("strength").oninput = () => this.sendStrength();
      this.$("int8").onchange = this.$("float32").onchange = () => this.chooseMath();
      this.$("snr").oninput = () => this.sendSnr();
      this.$("scene").onchange = this.$("noise").onchange = this.$("file").onchange = () => this.changed();
      this.$("record").onclick = () => this.record();
      document.addEventListener("visibilitychange", () => this.visibility());
      // 一次只放一段：别的播放器一响，这里就停
      document.addEventListener("play", ({ target }) => target !== this.box && this.running && (this.stop(), this.setState("paused")), true);
      this.pending = [];
      this.running = false;
      this.setState("idle");
      this.chooseSource();
    }

    setState(state, text = STATES[state]) {
      this.state = this.box.dataset.state = state;
      this.$("status").textContent = text;
    }

    fail(error) {
      const problem = error instanceof Problem ? error : new Problem("error", `出错了：${error.message || error}`);
      this.stop();
      this.setState(problem.state, problem.message);
    }

    chooseSource() {
      const source = this.$("source").value;
      for (const name of ["scene", "file", "mic"]) this.$(`${name}-options`).hidden = name !== source;
      this.changed();
    }

    // 声源换了：正在放的、还在载入的、正等着授权的，都照新选的重来
    changed() {
      if (this.running || this.starting) this.restart();
    }

    async toggle() {
      if (this.context?.state === "interrupted" || (this.running && this.context?.state === "suspended")) return this.context.resume();
      if (this.running || this.starting) return this.stop(), this.setState("paused");
      await this.start();
    }

    async restart() {
      this.stop();
      await this.start();
    }

    async start() {
      const turn = (this.turn = (this.turn || 0) + 1); // 连按几下，只有最后一次算数
      this.starting = true;
      this.$("start").textContent = "停止";
      try {
        if (!window.AudioContext || !window.isSecureContext)
          throw new Problem("insecure", "这个地址不是安全的（不是 https 或本机），浏览器不给声音线程与麦克风：请用 https 打开，或把书下载到本机再打开。");
        if (this.$("source").value === "file" && !this.$("file").files.length)
          throw new Problem("nofile", "还没有选文件：请先选一个声音文件。");
        this.setState("loading");
        const context = this.open();
        await wake(context);
        this.engine ??= await loadEngine(this.root);
        if (turn !== this.turn) return;
        await this.connect(context, turn);
      } catch (error) {
        if (turn === this.turn) this.fail(error);
      }
    }

    // 在 16 kHz 的声音环境里放，用不着重采样；有的浏览器不肯，就用它自己的采样率。
    // 听场景与文件不怕晚十分之一秒，缓冲大一些，别的程序再忙也不断；麦克风要快
    open(rate = 16000) {
      this.context?.close();
      const latencyHint = this.$("source").value === "mic" ? "interactive" : "playback";
      try {
        this.context = new AudioContext({ ...(rate && { sampleRate: rate }), latencyHint });
      } catch {
        this.context = new AudioContext({ latencyHint });
      }
      const context = this.context;
      context.onstatechange = () => {
        if (context !== this.context || !this.running) return;
        if (context.state === "running") this.visibility();
        else this.setState("interrupted"), (this.$("start").textContent = "继续");
      };
      if (!context.audioWorklet) throw new Problem("insecure", "这个浏览器没有 AudioWorklet，实时的声音做不了：请升级浏览器，并用 https 打开。");
      return context;
    }

    async connect(context, turn) {
      const { module, model, worklet, level } = this.engine;
      let source;
      const kind = this.$("source").value;
      if (kind === "mic") {
        const stream = await this.microphone();
        if (turn !== this.turn) return stream.getTracks().forEach((track) => track.stop());
        this.stream = stream;
        for (const track of stream.getTracks()) // 拔掉了，或者许可被收回；自己停的不算
          track.onended = () => stream === this.stream && this.fail(new Problem("nomic", "麦克风断开了：请接好、允许之后再按「开始」；也可以改用文件或书里的场景。"));
        try {
          source = context.createMediaStreamSource(stream);
        } catch {
          context = this.open(null); // 麦克风的采样率与声音环境的要相同（Firefox）
          await wake(context);
          source = context.createMediaStreamSource(stream);
        }
      }
      await addWorklet(context, worklet);
      let opened = {};
      if (kind === "scene") opened = await this.scene(context);
      if (kind === "file") opened = await this.file(context);
      if (turn !== this.turn) return; // 等的时候换了别的：这一份不要了
      this.players = opened.players || [];
      this.noiseGain = opened.noiseGain || null;
      this.balance = opened.balance;
      source ??= opened.source;
      this.sendSnr(true);
      this.cost ??= { int8: measure(module, model, true) };
      const node = new AudioWorkletNode(context, "lstm-live", {
        numberOfInputs: 1,
        outputChannelCount: [1],
        processorOptions: { module, model, int8: true, strength: this.strength(), seconds: SECONDS },
      });
      this.node = node;
      node.onprocessorerror = () => node === this.node && this.fail(new Error("声音线程停了"));
      await new Promise((resolve, reject) => {
        node.port.onmessage = ({ data }) => {
          if (data.type === "ready") resolve((this.facts = data));
          else if (data.type === "error") reject(new Error(data.text));
          else this.hear(data);
        };
      });
      if (turn !== this.turn) return;
      node.port.onmessage = ({ data }) => this.hear(data);
      node.connect(context.destination);
      source.connect(node);
      this.box.dispatchEvent(new Event("play"));
      for (const player of this.players) player.start();
      this.gaps = 0;
      this.before = context.playbackStats?.underrunEvents; // 载入时还没有声音，不算断
      this.drift = null;
      this.running = true;
      this.starting = false;
      this.$("level").textContent = level === "wasm" ? "SIMD128" : "relaxed SIMD";
      this.$("record").disabled = false;
      const trouble = this.$("float32").checked && (await this.chooseMath());
      if (turn !== this.turn) return;
      this.visibility();
      if (trouble) this.$("status").textContent = trouble;
      this.paint();
    }

    async microphone() {
      if (!navigator.mediaDevices?.getUserMedia) throw new Problem("nomic", "这个页面拿不到麦克风：请用 https 打开，或换一个浏览器。");
      const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      try {
        return await navigator.mediaDevices.getUserMedia({ audio });
      } catch (error) {
        if (error.name === "NotAllowedError" || error.name === "SecurityError")
          throw new Problem("refused", "没有得到麦克风的许可。要用的话，在地址栏的图标里改成允许，再按「开始」；也可以改用文件或书里的场景。");
        if (error.name === "NotFoundError" || error.name === "OverconstrainedError")
          throw new Problem("nomic", "这台设备上没有找到麦克风；可以改用文件或书里的场景。");
        throw new Problem("nomic", `麦克风打不开（${error.name}），也许正被别的程序占用；可以改用文件或书里的场景。`);
      }
    }

    async scene(context) {
      await loadScript(`${this.root}/scenes.js`);
      const { scenes } = window.lstmLiveData;
      if (this.$("snr").disabled) {
        for (const name of ["scene", "noise", "snr"]) this.$(name).disabled = false;
        for (const name of ["scene", "noise"]) this.$(name).replaceChildren();
        scenes.forEach((scene, k) => {
          this.$("scene").add(new Option(scene.voice, k));
          this.$("noise").add(new Option(scene.kind, k));
        });
        this.$("snr").value = Math.round(scenes[0].snr);
      }
      const speech = scenes[this.$("scene").value];
      const noise = scenes[this.$("noise").value];
      const clean = samples(speech.clean, speech.gain);
      const raw = samples(noise.noise, noise.gain);
      const balance = 10 * Math.log10(power(clean) / power(raw)); // 增益为 1 时的信噪比
      const noiseGain = context.createGain(), source = context.createGain();
      const players = [player(context, clean), player(context, raw)];
      players[0].connect(source);
      players[1].connect(noiseGain).connect(source);
      return { source, players, noiseGain, balance };
    }

    sendSnr(now = false) {
      const snr = Number(this.$("snr").value);
      this.$("snr-value").textContent = snr;
      if (!this.noiseGain) return;
      const gain = 10 ** ((this.balance - snr) / 20);
      if (now) this.noiseGain.gain.value = gain;
      else this.noiseGain.gain.setTargetAtTime(gain, this.context.currentTime, 0.01);
    }

    async file(context) {
      const file = this.$("file").files[0];
      if (!file.size) throw new Problem("badfile", `「${file.name}」是空的（0 字节）：请换一个有声音的文件。`);
      let buffer;
      try {
        buffer = await context.decodeAudioData(await file.arrayBuffer());
      } catch {
        throw new Problem("badfile", `浏览器解不开「${file.name}」：请换成 flac、mp3、m4a，或 16 位、24 位、32 位浮点的 wav；里面也要真有样点。`);
      }
      const peak = loudest(buffer);
      if (peak > LOUDEST)
        throw new Problem("badfile", `「${file.name}」的样点大到 ${peak.toPrecision(3)}，满幅应是 1：多半是整数没有除以满幅就存成了浮点，请先缩小。`);
      const source = context.createBufferSource();
      source.buffer = buffer;
      source.loop = true;
      return { source, players: [source] };
    }

    strength() {
      return this.$("noisy").checked ? 0 : Number(this.$("strength").value) / 100;
    }

    sendStrength() {
      this.$("strength-value").textContent = `${this.$("strength").value}%`;
      this.send({ type: "strength", value: this.strength() });
    }

    async chooseMath() {
      const name = this.$("float32").checked ? "float32" : "int8";
      if (!this.running) return;
      const { turn, node } = this;
      const wanted = () => turn === this.turn && this.$(name).checked; // 等的时候停了，或者又按了回去
      if (name === "float32" && !this.cost.float32) {
        this.$("status").textContent = "正在载入 float32 的模型（2.4 MB）……";
        try {
          const model = await loadFloat(this.root);
          this.cost.float32 = measure(this.engine.module, model, false);
        } catch (error) {
          if (!wanted()) return;
          this.$("int8").checked = true;
          this.$("status").textContent = error.message;
          return error.message;
        }
      }
      if (!wanted()) return;
      if (name === "float32") {
        node.adding ??= new Promise((resolve) => {
          node.added = resolve;
          node.port.postMessage({ type: "add", name, model: bytes(window.lstmLiveData.float32) });
        });
        await node.adding;
      }
      if (!wanted()) return;
      this.send({ type: "use", name });
      this.visibility();
    }

    send(message) {
      this.node?.port.postMessage(message);
    }

    hear(data) {
      if (data.type === "error") return this.fail(new Error(data.text));
      if (data.type === "added") return this.node?.added?.();
      if (data.type === "recorded") return this.recorded(data);
      if (data.type !== "frames") return;
      this.last = data;
      this.watch(data);
      if (!document.hidden && this.pending.length < 40) this.pending.push(data);
    }

    // 声音的钟落在墙上的钟后面：声音断过。两个钟都在声音线程里看，页面忙不算数
    watch({ time, wall }) {
      const late = wall / 1000 - time;
      this.drift = this.drift === null ? late : Math.min(this.drift, late);
      if (late - this.drift > 0.25 && !document.hidden) this.gaps++, (this.drift = late);
    }

    // 断过几次：浏览器自己数的最准（Chrome），没有就用上面看钟得来的
    lost() {
      return this.before === undefined ? this.gaps : this.context.playbackStats.underrunEvents - this.before;
    }

    visibility() {
      if (!this.running) return;
      this.send({ type: "quiet", value: document.hidden });
      this.drift = null;
      if (this.context.state !== "running") return;
      const cost = this.cost[this.$("float32").checked ? "float32" : "int8"];
      this.$("start").textContent = "停止";
      if (document.hidden) this.setState("hidden");
      else if (cost > SLOW) this.setState("slow", `这台设备算一帧要 ${cost.toFixed(1)} ms，一帧只有 16 ms：声音可能断续。可以关掉别的程序，或用 int8。`);
      else this.setState("running");
    }

    paint() {
      if (!this.running) return;
      requestAnimationFrame(() => this.paint());
      const groups = this.pending.splice(0);
      if (groups.length) {
        const before = [], mask = [], after = [];
        for (const { spectrum, mask: m, strength } of groups) {
          const bins = spectrum.length / 4;
          for (let at = 0; at < spectrum.length; at += bins) {
            const s = spectrum.subarray(at, at + bins), gain = m.subarray(at, at + bins);
            before.push(s.map(shade)), mask.push(gain);
            after.push(s.map((level, k) => shade(level + 51 * Math.log10(Math.max(1e-3, 1 - strength + (strength * gain[k]) / 255)))));
          }
        }
        const height = before[0].length;
        this.scrolls ??= ["before", "mask", "after"].map((name) => this.reveal(name, height));
        [before, mask, after].forEach((columns, k) => this.scrolls[k].draw(columns.slice(-COLUMNS)));
      }
      if (this.last && performance.now() - (this.shown || 0) > 500) this.numbers();
    }

    // 第一次有东西画：画布换下示意的图
    reveal(name, height) {
      const canvas = this.$(name);
      canvas.hidden = false;
      canvas.previousElementSibling.remove();
      this.$("hint")?.remove();
      return new Scroll(canvas, height);
    }

    numbers() {
      this.shown = performance.now();
      const cost = this.cost[this.$("float32").checked ? "float32" : "int8"];
      const frame = (1000 * this.facts.hop) / this.facts.rate;
      this.$("time").textContent = `${(1000 * cost).toFixed(0)} µs（一帧 ${frame} ms）`;
      this.$("factor").textContent = `${(cost / frame).toFixed(4)}（1 以下来得及）`;
      const outside = (this.context.baseLatency || 0) + (this.context.outputLatency || 0);
      this.$("latency").textContent = `${Math.round(1000 * this.facts.latency)} ms，另加声卡约 ${Math.round(1000 * outside)} ms`;
      this.$("gaps").textContent = `${this.lost()} 次`;
    }

    record() {
      this.recording = true;
      this.$("record").disabled = true;
      this.$("record").textContent = "正在录……";
      this.send({ type: "record" });
    }

    recorded({ noisy, enhanced, rate }) {
      this.recording = false;
      this.$("record").disabled = false;
      this.$("record").textContent = "再录十秒";
      this.takes = { noisy, enhanced, rate };
      const box = this.$("takes");
      for (const link of box.querySelectorAll("a")) URL.revokeObjectURL(link.href);
      box.replaceChildren();
      for (const [name, wave] of Object.entries({ 带噪: noisy, 增强: enhanced })) {
        const address = URL.createObjectURL(wav(wave, rate));
        const sound = document.createElement("audio");
        Object.assign(sound, { controls: true, src: address });
        sound.setAttribute("aria-label", `录下的十秒：${name}`);
        const link = document.createElement("a");
        Object.assign(link, { href: address, download: `${name}.wav`, textContent: `下载${name}.wav` });
        box.append(sound, link);
      }
    }

    stop() {
      this.turn = (this.turn || 0) + 1;
      this.starting = this.running = false;
      this.send({ type: "stop" });
      if (this.node) this.node.port.onmessage = null; // 它余下的消息不关下一次的事
      for (const track of this.stream?.getTracks() || []) track.stop();
      this.context?.close();
      this.context = this.node = this.stream = this.players = this.noiseGain = null;
      this.$("start").textContent = "开始";
      this.$("record").disabled = true;
      this.$("record").textContent = this.recording ? "刚才没有录完，重录十秒" : this.takes ? "再录十秒" : "录十秒";
      this.recording = false;
    }
  }

  function loudest(buffer) {
    let peak = 0;
    for (let c = 0; c < buffer.numberOfChannels; c++) for (const value of buffer.getChannelData(c)) if (Math.abs(value) > peak) peak = Math.abs(value); // NaN 不算
    return peak;
  }

  function samples(base64, gain) {
    const whole = new Int16Array(bytes(base64).buffer);
    return Float32Array.from(whole, (value) => (value / 32767) * gain);
  }

  function power(wave) {
    let sum = 0;
    for (const value of wave) sum += value * value;
    return sum / wave.length || 1e-12;
  }

  function player(context, wave) {
    const buffer = context.createBuffer(1, wave.length, 16000);
    buffer.copyToChannel(wave, 0);
    const source = context.createBufferSource();
    Object.assign(source, { buffer, loop: true });
    return source;
  }

  // 一个按钮：量出这个浏览器一帧要多久，填进它上面那张表的“你的浏览器”一行
  class Measure {
    constructor(box) {
      this.root = box.dataset.root;
      box.innerHTML = `<button type="button">在我的浏览器里量一量</button> <span role="status">要载入内核与两个模型，约 4 MB。</span>`;
      [this.button, this.status] = box.children;
      const before = (table) => table.compareDocumentPosition(box) & Node.DOCUMENT_POSITION_FOLLOWING;
      const rows = [...document.querySelectorAll("table")].filter(before).flatMap((table) => [...table.rows]);
      this.cells = rows.findLast((row) => row.cells[0].textContent.startsWith("你的浏览器"))?.cells;
      this.button.onclick = () => this.run();
    }

    async run() {
      this.button.disabled = true;
      this.status.textContent = "正在载入……";
      try {
        const { module, model, level } = await loadEngine(this.root);
        const float32 = await loadFloat(this.root);
        this.status.textContent = "正在量……";
        await new Promise((resolve) => setTimeout(resolve, 50)); // 让上面这句先显示出来
        const slow = thorough(module, float32, false);
        const fast = thorough(module, model, true);
        const texts = [`你的浏览器，${level}`, (1000 * slow).toFixed(0), (1000 * fast).toFixed(0), `${((100 * fast) / 16).toFixed(2)}%`];
        texts.forEach((text, k) => this.cells?.[k] && (this.cells[k].textContent = text));
        this.status.textContent = `${level}：float32 一帧 ${texts[1]} μs，int8 一帧 ${texts[2]} μs。`;
        this.button.textContent = "再量一次";
      } catch (error) {
        this.status.textContent = error.message;
      }
      this.button.disabled = false;
    }
  }

  // 先估一估，再取够多的帧：有的浏览器的钟只准到一毫秒
  function thorough(module, model, int8) {
    const rough = measure(module, model, int8, 20);
    return measure(module, model, int8, Math.ceil(Math.min(1000, Math.max(20, 60 / (rough + 0.01)))));
  }

  function begin() {
    document.querySelectorAll(".lstm-live[data-root]").forEach((box) => (box.lstmLive ??= new Page(box)));
    document.querySelectorAll(".live-measure").forEach((box) => (box.lstmLive ??= new Measure(box)));
  }
  window.lstmLive = { begin, loadEngine, loadFloat, measure, render, wav };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
