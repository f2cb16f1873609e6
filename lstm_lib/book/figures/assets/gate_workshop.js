// 门排错了，听一听：把四块权重排成任意次序，程序照 i f g o 读，看掩蔽、听声音，说出谁与谁换了位置。
var number = base.number, sound = base.sound, network = base.network(data, sound.bins), right = "ifgo", colors = base.array(data.colors);
var names = {i: "输入门", f: "遗忘门", g: "候选值", o: "输出门"}, tints = {i: "blue", f: "orange", g: "green", o: "purple"};
var noisy = sound.expand(data.noisy), clean = sound.expand(data.clean);
var spectrum = sound.stft(noisy), x = sound.magnitude(spectrum), frames = spectrum.frames;

// 四块叠成的数组，由 i f g o 排成 order
function arrange(values, order) {
  var size = values.length / 4, out = new values.constructor(values.length);
  for (var k = 0; k < 4; k++) {
    var from = right.indexOf(order[k]) * size;
    out.set(values.subarray(from, from + size), k * size);
  }
  return out;
}
function mask(order) {
  var use = {W: arrange(network.W, order), U: arrange(network.U, order), bias: arrange(network.bias, order)};
  return network.run(x, frames, use, function (values) { return values; });
}
var exact = mask(right), known = {};
function hear(order) {
  if (known[order]) return known[order];
  var found = mask(order), wave = sound.masked(spectrum, found, noisy.length), gap = 0;
  for (var k = 0; k < found.length; k++) gap += Math.abs(found[k] - exact[k]);
  return known[order] = {mask: found, wave: wave, gap: gap / found.length, siSdr: sound.siSdr(clean, wave)};
}
// 谁与谁换了位置：沿着“那里放的是谁”走，走回起点就是一圈；两个的圈是对调
function crossed(order) {
  var seen = "", found = [];
  right.split("").forEach(function (start) {
    for (var ring = "", at = start; seen.indexOf(at) < 0; at = order[right.indexOf(at)]) { seen += at; ring += at; }
    if (ring.length === 2) found.push(ring[0] + " 与 " + ring[1] + " 对调了");
    else if (ring.length > 2) found.push(ring.split("").map(function (slot, k) {
      return slot + " 的位置上放着 " + ring[(k + 1) % ring.length];
    }).join("，"));
  });
  return found.join("；");
}

var order = "iofg", held = null;
base.element("p", {textContent: "文件里四块权重的次序（拖到哪块上，就与哪块对调；也可以按 ← →）：", className: "note"}, root);
var board = base.element("div", {className: "board"}, root), list = base.element("ol", {"aria-label": "文件里四块权重的次序"}, board), tiles = {};
var wires = base.element("div", {className: "wires"}, board);
var slots = base.element("div", {className: "slots"}, board);
right.split("").forEach(function (gate) {
  var tile = base.element("li", {className: "tile", style: "--tint:var(--c-" + tints[gate] + ")"}, list);
  var grip = base.element("div", {className: "grip"}, tile);
  base.element("b", {textContent: gate}, grip);
  base.element("span", {textContent: names[gate]}, grip);
  var pair = base.element("div", {className: "pair"}, tile);
  var buttons = [-1, 1].map(function (way) {
    var button = base.element("button", {type: "button", textContent: way < 0 ? "←" : "→", "aria-label": names[gate] + " " + gate + (way < 0 ? " 左移" : " 右移")}, pair);
    button.addEventListener("click", function () { shift(gate, way, button); });
    return button;
  });
  grip.addEventListener("pointerdown", function (event) {
    if (event.button) return;
    event.preventDefault();
    held = {gate: gate, id: event.pointerId, x: event.clientX, y: event.clientY, over: gate};
    grip.setPointerCapture(event.pointerId);
    tile.classList.add("held");
  });
  grip.addEventListener("pointermove", function (event) {
    if (!held || held.id !== event.pointerId) return;
    tile.style.transform = "translate(" + (event.clientX - held.x) + "px," + (event.clientY - held.y) + "px)";
    var box = list.getBoundingClientRect(), column = Math.floor(4 * (event.clientX - box.left) / box.width);
    held.over = order[Math.max(0, Math.min(3, column))];
    for (var other in tiles) tiles[other].tile.classList.toggle("over", other === held.over && other !== gate);
  });
  function release(event) {
    if (!held || held.id !== event.pointerId) return;
    var over = event.type === "pointerup" ? held.over : gate;
    held = null;
    tile.style.transform = "";
    for (var other in tiles) tiles[other].tile.classList.remove("over", "held");
    if (over !== gate) swap(gate, over);
  }
  grip.addEventListener("pointerup", release);
  grip.addEventListener("pointercancel", release);
  tiles[gate] = {tile: tile, buttons: buttons};
});
function swap(a, b) {
  set(order.split("").map(function (gate) { return gate === a ? b : gate === b ? a : gate; }).join(""));
}
function shift(gate, way, button) {
  var neighbour = order[order.indexOf(gate) + way];
  if (neighbour) swap(gate, neighbour);
  button.focus(); // 元素挪了地方，焦点跟过去
}

var verdict = base.element("p", {className: "verdict", role: "status"}, root);
var ready = base.element("div", {className: "ready", role: "group", "aria-label": "现成的次序"}, root);
[["i f g o（PyTorch）", "ifgo"], ["i o f g（ONNX）", "iofg"], ["i f o g（ncnn）", "ifog"]].forEach(function (item) {
  base.element("button", {type: "button", textContent: item[0]}, ready).addEventListener("click", function () { set(item[1]); });
});
var shown = base.facts(root, [["siSdr", "SI-SDR"], ["right", "次序正确时"], ["noisy", "不处理时"], ["gap", "掩蔽平均差"]]);
var players = sound.compare(root, ["带噪", "次序正确", "这个次序"], data.title, noisy.length);
base.element("p", {className: "note", textContent: "带噪的一条是语谱图，另外两条是掩蔽（亮的放行）。试过的次序，好的在前，点一下就回到它："}, root);
var tried = base.element("ol", {className: "tried", "aria-label": "试过的次序，SI-SDR 高的在前"}, root), visited = [];

function spaced(text) { return text.split("").join(" "); }
function set(next) {
  if (next !== order) { order = next; update(); }
}
function drawBoard() {
  var lines = "", text = "";
  order.split("").forEach(function (gate, k) {
    var home = right.indexOf(gate), slot = right[k], fits = slot === gate;
    // 次序没变的不动，免得打断正在按的键
    if (list.children[k] !== tiles[gate].tile) list.insertBefore(tiles[gate].tile, list.children[k]);
    tiles[gate].tile.classList.toggle("wrong", !fits);
    tiles[gate].buttons[0].setAttribute("aria-disabled", k === 0);
    tiles[gate].buttons[1].setAttribute("aria-disabled", k === 3);
    lines += '<path d="M' + (50 + 100 * k) + " 2C" + (50 + 100 * k) + " 30 " + (50 + 100 * home) + " 20 " + (50 + 100 * home) + ' 48" fill="none" style="stroke:var(--c-' + tints[gate] + ');stroke-width:3" vector-effect="non-scaling-stroke"/>';
    text += '<div class="' + (fits ? "" : "wrong") + '"><b style="color:var(--c-' + tints[slot] + ')">' + slot + "</b> " + names[slot] + "<small>" + (fits ? "用对了" : "用了 " + gate + " 的") + "</small></div>";
  });
  wires.innerHTML = '<svg viewBox="0 0 400 50" preserveAspectRatio="none" aria-hidden="true">' + lines + "</svg>";
  slots.innerHTML = text;
}
function drawTried() {
  if (visited.indexOf(order) < 0) visited.push(order);
  visited.sort(function (a, b) { return hear(b).siSdr - hear(a).siSdr; });
  var focus = tried.contains(document.activeElement);
  tried.textContent = "";
  visited.forEach(function (item) {
    var button = base.element("button", {type: "button", textContent: spaced(item) + "　" + number(hear(item).siSdr, 1) + " dB"}, base.element("li", {}, tried));
    button.addEventListener("click", function () { set(item); });
    if (item !== order) return;
    button.setAttribute("aria-current", "true");
    if (focus) button.focus();
  });
}
function update() {
  var found = hear(order), said = crossed(order);
  drawBoard();
  verdict.textContent = spaced(order) + "：" + (said || "四个门各就各位") + "。";
  verdict.classList.toggle("wrong", !!said);
  shown.siSdr.textContent = number(found.siSdr, 1) + " dB";
  shown.gap.textContent = number(found.gap, 4);
  players[2].draw(found.mask, frames, 0, 1, colors, "次序是 " + spaced(order) + " 时的掩蔽，与正确的平均差 " + number(found.gap, 4));
  players[2].hear(found.wave, gain);
  drawTried();
}
var gain = 0.9 / noisy.reduce(function (top, v) { return Math.max(top, Math.abs(v)); }, 1e-9);
var level = x.map(function (value) { return 20 * Math.log10(value + 1e-9); }), top = level.reduce(function (a, b) { return Math.max(a, b); });
shown.right.textContent = number(hear(right).siSdr, 1) + " dB";
shown.noisy.textContent = number(sound.siSdr(clean, noisy), 1) + " dB";
players[0].draw(level, frames, top - 65, top, colors, data.title + "的语谱图：横轴 0 到 " + number(noisy.length / 16000, 1) + " 秒，纵轴 0 到 8 kHz，越亮越强");
players[0].hear(noisy, gain);
players[1].draw(exact, frames, 0, 1, colors, "次序正确的掩蔽");
players[1].hear(hear(right).wave, gain);
update();
root.figure = {mask: mask, hear: hear, crossed: crossed, order: function () { return order; }};
