// 量化的位数随手拨：权重、输入各几位，步长逐行取还是整个矩阵取一个；掩蔽差多少，声音差多少。
var number = base.number, sound = base.sound, network = base.network(data, sound.bins), colors = base.array(data.colors);
var W = network.W, U = network.U, hidden = network.hidden, inputs = network.inputs;
var noisy = sound.expand(data.noisy), clean = sound.expand(data.clean);
var spectrum = sound.stft(noisy), x = sound.magnitude(spectrum), frames = spectrum.frames;

// 四舍五入到最近的整数，正中间取偶数，与 NumPy 的 rint 相同
function rint(v) {
  var down = Math.floor(v), rest = v - down;
  return rest < 0.5 || (rest === 0.5 && down % 2 === 0) ? down : down + 1;
}
// 对称量化再乘回步长；每 columns 个数一个步长。bits 为 0 就原样返回
function quantize(values, bits, columns) {
  if (!bits) return Float64Array.from(values);
  var out = new Float64Array(values.length), levels = Math.pow(2, bits - 1) - 1;
  for (var start = 0; start < values.length; start += columns) {
    for (var k = start, top = 0; k < start + columns; k++) top = Math.max(top, Math.abs(values[k]));
    if (!top) continue;
    for (k = start; k < start + columns; k++) out[k] = rint(values[k] / (top / levels)) * (top / levels);
  }
  return out;
}
// 掩蔽 (T × 257)：权重 weightBits 位，x 与 h 每帧量化成 inputBits 位；线性层不量化
function mask(weightBits, inputBits, perRow) {
  var w = quantize(W, weightBits, perRow ? inputs : W.length), u = quantize(U, weightBits, perRow ? hidden : U.length);
  return network.run(x, frames, {W: w, U: u, bias: network.bias}, function (v) { return quantize(v, inputBits, v.length); });
}
var exact = mask(0, 0, true), enhanced = sound.masked(spectrum, exact, noisy.length);
// 与没有量化的相比：掩蔽平均差多少，两段声音之差比声音低多少 dB，SI-SDR
function compare(weightBits, inputBits, perRow) {
  var found = mask(weightBits, inputBits, perRow), wave = sound.masked(spectrum, found, noisy.length), gap = 0, power = 0, change = 0;
  for (var k = 0; k < found.length; k++) gap += Math.abs(found[k] - exact[k]);
  for (k = 0; k < wave.length; k++) { power += enhanced[k] * enhanced[k]; change += Math.pow(wave[k] - enhanced[k], 2); }
  return {mask: found, wave: wave, gap: gap / found.length, below: 10 * Math.log10(power / change), siSdr: sound.siSdr(clean, wave)};
}
function bytes(bits, perRow) {
  return Math.ceil((W.length + U.length) * (bits || 32) / 8) + (bits ? 4 * (perRow ? 8 * hidden : 2) : 0);
}

function bitsText(bits) { return bits > 8 ? "不量化" : bits + " 位"; }
var controls = base.element("div", {}, root), timer = 0;
function changed() { clearTimeout(timer); timer = setTimeout(update, 0); }
var weightBits = base.slider(controls, {name: "weight", label: "权重", min: 2, max: 9, value: 4, show: bitsText, changed: changed});
var inputBits = base.slider(controls, {name: "input", label: "输入 x 与 h", min: 2, max: 9, value: 8, show: bitsText, changed: changed});
var scale = base.choice(root, {name: "scale", label: "权重的步长", value: "row", items: [["row", "每行一个"], ["tensor", "整个矩阵一个"]], changed: changed});
var shown = base.facts(root, [["gap", "掩蔽平均差"], ["below", "声音之差低于声音"], ["siSdr", "SI-SDR（未量化）"], ["bytes", "LSTM 权重"]], {"aria-live": "polite"});
var players = sound.compare(root, ["带噪", "不量化", "量化"], data.title, noisy.length);
var chart = base.element("div", {className: "chart"}, root);
base.element("p", {className: "note", textContent: "带噪的一条是语谱图，另外两条是掩蔽（亮的放行）。曲线是两种步长在各个位数上的差，越高越好；输入的位数照上面的滑块。"}, root);

var gain = 0.9 / noisy.reduce(function (top, v) { return Math.max(top, Math.abs(v)); }, 1e-9), curves = {};
function drawChart(current) {
  function px(bits) { return 50 + (bits - 2) * 68; }
  function py(value) { return 190 - Math.max(-5, Math.min(55, value)) * 3; }
  var out = base.words(4, 14, "声音之差比声音低多少 dB");
  [0, 10, 20, 30, 40, 50].forEach(function (value) {
    out += base.line(50, py(value), 470, py(value), "grid") + base.words(34, py(value) + 4, value, "", ' class="n"');
  });
  for (var bits = 2; bits <= 8; bits++) out += base.words(px(bits), 226, bits, "", ' class="n"');
  out += base.words(260, 246, "权重的位数", "", ' class="n"');
  [["row", "blue", "每行一个步长"], ["tensor", "orange", "整个矩阵一个步长"]].forEach(function (item, k) {
    var points = (curves[item[0]] || []).map(function (value, n) { return px(n + 2) + "," + py(value).toFixed(1); });
    out += '<polyline points="' + points.join(" ") + '" fill="none" style="stroke:var(--c-' + item[1] + ');stroke-width:2"/>';
    out += base.words(330, 152 + 19 * k, item[2], item[1]);
  });
  if (current.bits <= 8) out += '<circle cx="' + px(current.bits) + '" cy="' + py(current.below).toFixed(1) + '" r="5.5" style="fill:var(--c-' + (current.perRow ? "blue" : "orange") + ')"/>';
  var said = ["row", "tensor"].map(function (kind) { return (kind === "row" ? "每行一个步长" : "整个矩阵一个步长") + "：" + (curves[kind] || []).map(function (v) { return number(v, 0); }).join("、"); });
  chart.innerHTML = '<svg viewBox="0 0 480 252" role="img" aria-label="权重 2 到 8 位时，声音之差比声音低多少分贝。' + said.join("；") + '">' + out + "</svg>";
}
var drawn = -1, pending = 0;
// 十四个点一个一个地算，不让页面卡住
function curve(inputs, current) {
  if (drawn === inputs) return drawChart(current);
  drawn = inputs;
  clearTimeout(pending);
  curves = {row: [], tensor: []};
  (function next() {
    var kind = curves.row.length < 7 ? "row" : "tensor";
    if (curves.tensor.length === 7) return drawChart(last);
    curves[kind].push(compare(curves[kind].length + 2, inputs, kind === "row").below);
    pending = setTimeout(next, 0);
  })();
  drawChart(current);
}
var last;
function update() {
  var bits = weightBits.get(), inBits = inputBits.get() % 9, perRow = scale.get() === "row", found = compare(bits % 9, inBits, perRow);
  shown.gap.textContent = number(found.gap, 4);
  shown.below.textContent = isFinite(found.below) ? number(found.below, 1) + " dB" : "没有差";
  shown.siSdr.textContent = number(found.siSdr, 1) + " dB（" + number(sound.siSdr(clean, enhanced), 1) + "）";
  shown.bytes.textContent = number(bytes(bits % 9, perRow) / 1000, 1) + " kB";
  players[2].draw(found.mask, frames, 0, 1, colors, "量化之后的掩蔽，与不量化的平均差 " + number(found.gap, 4));
  players[2].hear(found.wave, gain);
  last = {bits: bits, below: found.below, perRow: perRow};
  curve(inBits, last);
}
var level = x.map(function (value) { return 20 * Math.log10(value + 1e-9); }), top = level.reduce(function (a, b) { return Math.max(a, b); });
players[0].draw(level, frames, top - 65, top, colors, data.title + "的语谱图：横轴 0 到 " + number(noisy.length / 16000, 1) + " 秒，纵轴 0 到 8 kHz，越亮越强");
players[0].hear(noisy, gain);
players[1].draw(exact, frames, 0, 1, colors, "没有量化的掩蔽");
players[1].hear(enhanced, gain);
update();
root.figure = {mask: mask, compare: compare, quantize: quantize, bytes: bytes, stft: function () { return x; }, clean: clean, noisy: noisy};
