// 屋顶线：一帧要读多少字节、做多少乘加，先到头的是带宽还是算力。
var number = base.number;

// 一路、一帧的账。inputs、hidden：LSTM 的尺寸；width：一个权重几字节；frames：几帧一起做输入投影；streams：几路共用权重；
// cache：缓存几 MB；near、far：缓存与内存的带宽，GB/s；peak：算力，10 亿次乘加／秒
function roof(s) {
  var work = 4 * s.hidden * (s.inputs + s.hidden), weights = work * s.width;
  var read = 4 * s.hidden * (s.inputs / s.frames + s.hidden) * s.width / s.streams;
  var fits = weights <= s.cache * 1e6, bandwidth = fits ? s.near : s.far, intensity = work / read;
  var reading = read / bandwidth / 1e3, computing = work / s.peak / 1e3, time = Math.max(reading, computing);
  return {work: work, weights: weights, read: read, fits: fits, intensity: intensity, reading: reading, computing: computing,
    time: time, speed: work / time / 1e3, bound: reading > computing ? (fits ? "缓存的带宽" : "内存的带宽") : "算力"};
}

function plain(v) { return v >= 100 ? number(v, 0) : number(v, v < 1 ? 3 : v < 10 ? 2 : 1); }
var knobs = {}, box = base.element("div", {className: "knobs"}, root), sides = [base.element("div", {}, box), base.element("div", {}, box)];
[["inputs", "输入 I", [16, 32, 64, 128, 256, 512, 1024], 256, ""], ["far", "内存带宽", [2, 5, 10, 20, 50, 100, 200], 10, " GB/s"],
  ["hidden", "隐藏单元 H", [16, 32, 64, 128, 257, 512, 1024], 257, ""], ["near", "缓存带宽", [10, 20, 50, 100, 200, 400], 50, " GB/s"],
  ["frames", "几帧一起", [1, 2, 4, 8, 16, 32, 64], 1, " 帧"], ["cache", "缓存大小", [0.25, 0.5, 1, 2, 4, 8, 32], 1, " MB"],
  ["streams", "几路一起", [1, 2, 4, 8, 16, 32, 64, 128], 1, " 路"], ["peak", "算力", [1, 2, 5, 10, 20, 50, 100, 200, 500], 50, " G/s"]
].forEach(function (item, k) {
  var values = item[2], slider = base.slider(sides[k % 2], {name: item[0], label: item[1], min: 0, max: values.length - 1, value: values.indexOf(item[3]),
    show: function (k) { return values[k] + item[4]; }, changed: update});
  knobs[item[0]] = {get: function () { return values[slider.get()]; }};
});
var kind = base.choice(root, {name: "width", label: "权重", value: 4, items: [[4, "float32"], [2, "float16"], [1, "int8"]], changed: update});
var shown = base.facts(root, [["weights", "全部权重"], ["work", "一帧的乘加"], ["read", "一帧读"], ["intensity", "乘加／字节"], ["time", "一帧至少"], ["bound", "先到头的是"]], {"aria-live": "polite"});
var chart = base.element("div", {className: "chart"}, root);
base.element("p", {className: "note", textContent: "算力的单位是 10 亿次乘加／秒，照所选的权重类型填：int8 的整数点积一般是 float32 的几倍。只算读权重与乘加，状态、激活函数与调用都没有算，所以这是下限。"}, root);

function draw(s, found) {
  function px(x) { return 56 + Math.log10(x / 0.1) / 4 * 404; } // 0.1 到 1000
  function py(y) { return 216 - Math.log10(y / 0.1) / 4 * 190; } // 0.1 到 1000
  var out = base.words(4, 14, "10 亿次乘加／秒");
  [0.1, 1, 10, 100, 1000].forEach(function (v) {
    out += base.line(56, py(v), 460, py(v), "grid") + base.line(px(v), 26, px(v), 216, "grid");
    out += base.words(px(v), 236, v, "", ' class="n"') + '<text x="48" y="' + (py(v) + 4) + '" class="n" style="text-anchor:end">' + v + "</text>";
  });
  out += base.words(258, 256, "每读一个字节做多少次乘加", "", ' class="n"');
  [[s.far, "orange", "内存", !found.fits], [s.near, "blue", "缓存", found.fits]].forEach(function (item) {
    var knee = Math.max(0.1, Math.min(1000, s.peak / item[0])), low = Math.max(0.1, 0.1 / item[0]);
    out += '<path d="M' + px(low) + " " + py(Math.min(low * item[0], s.peak)) + "L" + px(knee) + " " + py(s.peak) + "H" + px(1000) + '" fill="none" style="stroke:var(--c-' + item[1] + ");stroke-width:" + (item[3] ? 2.4 : 1.2) + ";stroke-dasharray:" + (item[3] ? "none" : "5 4") + '"/>';
  });
  out += base.words(330, 186, "内存的屋顶", "orange") + base.words(330, 204, "缓存的屋顶", "blue");
  var x = px(Math.min(found.intensity, 1000)), y = py(found.speed), color = found.fits ? "blue" : "orange";
  out += base.line(x, y, x, 216, "grey") + '<circle cx="' + x + '" cy="' + y + '" r="6" style="fill:var(--c-' + color + ')"/>';
  chart.innerHTML = '<svg viewBox="0 0 480 262" role="img" aria-label="屋顶线：每字节 ' + plain(found.intensity) + " 次乘加，最快每秒 " + plain(found.speed) + " 个 10 亿次乘加，先到头的是" + found.bound + '">' + out + "</svg>";
}
function update() {
  var s = {width: +kind.get()};
  for (var name in knobs) s[name] = knobs[name].get();
  var found = roof(s);
  shown.weights.textContent = plain(found.weights / 1e6) + " MB" + (found.fits ? "，装得进缓存" : "");
  shown.work.textContent = plain(found.work / 1e6) + " 百万次";
  shown.read.textContent = plain(found.read / 1e6) + " MB";
  shown.intensity.textContent = plain(found.intensity);
  shown.time.textContent = plain(found.time) + " μs";
  shown.bound.textContent = found.bound;
  draw(s, found);
}
update();
root.figure = {roof: roof};
