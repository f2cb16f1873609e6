// 对比播放器：几路声音同时开始，换一路只换音量，换得没有缝；没有这份脚本时就是一排 audio。
(() => {
  if (window.lstmPlayers) return window.lstmPlayers.scan();
  const FADE = 0.004, STEP = 0.25; // 秒
  const sounds = {}; // 网站上的声音另存一份成 _media/*.js：从 file:// 打开也取得到
  let context, current;

  function element(tag, properties, parent) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    parent.append(made);
    return made;
  }

  // 一个 audio 的内容：写在页里的 base64，或旁边的脚本送来的
  async function decode(audio) {
    const address = audio.getAttribute("src");
    let text = address.split(",")[1];
    if (!address.startsWith("data:")) {
      await new Promise((onload, onerror) =>
        element("script", { src: address.slice(0, -3) + "js", onload, onerror }, document.head));
      text = sounds[address.split("/").pop().slice(0, -4)];
    }
    return context.decodeAudioData(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  }

  function upgrade(root) {
    const tracks = root.querySelector(".tracks"), figures = [...tracks.children], seconds = +root.dataset.seconds;
    const captions = figures.map((figure) => figure.querySelector("figcaption"));
    const names = captions.map((caption) => caption.textContent), buffers = [];
    let chosen = 0, at = 0, began = 0, frame = 0, wanted = false, sources, held;
    root.dataset.ready = "";

    const bar = element("div", { className: "bar" }, root);
    tracks.before(bar);
    const play = element("button", { type: "button", className: "play", onclick: () => (wanted ? pause() : start()) }, bar);
    const clock = element("span", {}, bar);
    const numbers = names[1] ? "1–" + names.length + " 换一路，" : "";
    element("span", { className: "hint", textContent: "键盘：" + numbers + "空格播放或暂停，←、→ 前后移动" }, bar);
    const buttons = captions.map((caption, k) => {
      const textContent = names[k];
      caption.textContent = "";
      element("span", { textContent }, caption); // 打印的是这一个
      return element("button", { type: "button", textContent, onclick: () => choose(k) }, caption);
    });
    const seek = element("div", { className: "seek", tabIndex: 0, role: "slider", "aria-label": "播放位置", "aria-valuemin": 0, "aria-valuemax": seconds }, tracks);
    const cursor = element("i", {}, seek);

    // 听到第几秒：声音从算出来到响起还有一段延迟
    function time() {
      const passed = sources ? context.currentTime - (context.outputLatency || 0) - began : 0;
      return Math.min(seconds, at + Math.max(0, passed));
    }
    function draw() {
      cursor.style.left = (time() / seconds) * 100 + "%";
      clock.textContent = time().toFixed(1) + " / " + seconds.toFixed(1) + " 秒";
    }
    function show() {
      draw();
      play.textContent = wanted ? "暂停" : "播放";
      play.classList.toggle("on", wanted);
      buttons.forEach((button, k) => button.setAttribute("aria-pressed", k === chosen));
      figures.forEach((figure, k) => figure.classList.toggle("chosen", k === chosen));
      seek.setAttribute("aria-valuenow", time().toFixed(2));
      seek.setAttribute("aria-valuetext", clock.textContent + "，" + names[chosen]);
    }
    function follow() {
      if (!root.isConnected) return pause();
      draw();
      frame = requestAnimationFrame(follow);
    }

    function run() {
      began = context.currentTime + 0.02;
      sources = buffers.map((buffer, k) => {
        const source = context.createBufferSource(), output = source.connect(context.createGain());
        source.buffer = buffer;
        output.gain.value = +(k === chosen);
        output.connect(context.destination);
        source.start(began, at);
        return { source, gain: output.gain };
      });
      sources[0].source.onended = () => {
        pause();
        at = seconds;
        show();
      };
      follow();
    }
    function halt() {
      if (!sources) return;
      at = time();
      cancelAnimationFrame(frame);
      for (const { source, gain } of sources) {
        source.onended = null;
        gain.setTargetAtTime(0, context.currentTime, FADE);
        source.stop(context.currentTime + 10 * FADE);
      }
      sources = null;
    }
    async function start() {
      if (current !== player) current?.pause();
      root.dispatchEvent(new Event("play")); // 页面上别的声音也停
      current = player;
      document.querySelectorAll("audio").forEach((audio) => audio.pause());
      wanted = true;
      show();
      try {
        if (navigator.audioSession) navigator.audioSession.type = "playback"; // 苹果手机拨到静音也响
        context ??= new AudioContext();
        const ready = context.resume();
        await Promise.all(figures.map(async (figure, k) => (buffers[k] ??= await decode(figure.querySelector("audio")))));
        await ready;
      } catch {
        return plain();
      }
      if (!wanted || sources) return;
      if (at >= seconds) at = 0;
      run();
    }
    function pause() {
      wanted = false;
      halt();
      show();
    }
    // 声音取不到、解不开：退回一排 audio
    function plain() {
      delete root.dataset.ready;
      root.dataset.plain = "";
      [bar, seek, ...buttons].forEach((part) => part.remove());
    }
    function choose(k) {
      chosen = k;
      sources?.forEach(({ gain }, j) => gain.setTargetAtTime(+(j === k), context.currentTime, FADE));
      show();
    }
    function move(to, going = sources) {
      halt();
      at = Math.max(0, Math.min(seconds, to));
      if (going && at < seconds) run();
      else if (going) wanted = false;
      show();
    }
    // 能拨的图算好一路声音（16 kHz）就换上去；正在放的从原处接着放
    function set(k, wave) {
      buffers[k] = new AudioBuffer({ length: wave.length, sampleRate: 16000 });
      buffers[k].copyToChannel(wave, 0);
      if (sources) move(time());
    }

    // 点、拖语谱图：换到那一路，从那里听；拖的时候不出声。手指竖着划是滚动页面
    function drag(event) {
      if (!held.moved) choose(Math.max(0, figures.findIndex((figure) => held.y <= figure.getBoundingClientRect().bottom)));
      held.moved = true;
      const box = seek.getBoundingClientRect();
      halt();
      move(((event.clientX - box.left) / box.width) * seconds);
    }
    function release(event) {
      if (!held) return;
      if (event.type === "pointerup") drag(event);
      if (held.going && !sources) move(at, true);
      held = null;
    }
    seek.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      seek.setPointerCapture(event.pointerId);
      held = { x: event.clientX, y: event.clientY, going: !!sources };
      if (event.pointerType !== "touch") drag(event);
    });
    seek.addEventListener("pointermove", (event) => {
      if (held && (held.moved || Math.abs(event.clientX - held.x) > 6)) drag(event);
    });
    seek.addEventListener("pointerup", release);
    seek.addEventListener("pointercancel", release);

    // 这个键归播放器就做，返回真；别的按钮上的空格是按那个按钮
    function key({ key, repeat, target }) {
      const button = target.closest("button"), slider = target === seek;
      const step = { ArrowLeft: -STEP, ArrowRight: STEP }[key] || (slider && { ArrowDown: -STEP, ArrowUp: STEP, Home: -seconds, End: seconds }[key]);
      if (step) move(time() + step);
      else if (names[key - 1]) choose(key - 1);
      else if (key === " " && (!button || button === buttons[chosen])) repeat || play.click();
      else return false;
      return true;
    }
    const player = { buffers, time, chosen: () => chosen, start, pause, choose, move, set, key };
    root.player = player;
    show();
  }

  // 网慢时页面一段一段地到：后面已经有东西了，这一个才是全的
  function arrived(node) {
    if (document.readyState !== "loading") return true;
    while (node && !node.nextSibling) node = node.parentNode;
    return !!node;
  }
  function scan() {
    for (const root of document.querySelectorAll(".book-players:not([data-ready], [data-plain])"))
      if (arrived(root)) upgrade(root);
  }
  // 一次只放一段
  document.addEventListener("play", () => current?.pause(), true);
  // 抢在翻页的方向键与 JupyterLab 的快捷键前面
  window.addEventListener("keydown", (event) => {
    const player = event.target.closest?.(".book-players[data-ready]")?.player;
    if (!player || event.ctrlKey || event.altKey || event.metaKey || /Tab|Escape/.test(event.key)) return;
    if (player.key(event)) event.preventDefault();
    event.stopPropagation();
  }, true);
  document.addEventListener("DOMContentLoaded", scan);
  window.lstmPlayers = { sounds, scan, upgrade };
  (function look(times) { // 笔记本先跑脚本，后把输出放上页面
    scan();
    if (times) setTimeout(look, 100, times - 1);
  })(20);
})();
