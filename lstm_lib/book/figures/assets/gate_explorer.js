// 五个滑块拨一步 LSTM：条形图是这一步，曲线是门一直这样开着连走十二步。
var knobs = [
  ["f", "遗忘门 f", 0, 1, 0.9, "orange"], ["i", "输入门 i", 0, 1, 0.5, "blue"],
  ["g", "候选值 g", -1, 1, 0.8, "green"], ["o", "输出门 o", 0, 1, 0.7, "purple"],
  ["c", "旧状态 c", -2, 2, 1, "red"]];
var presets = [["原样记住", {f: 1, i: 0}], ["全部忘掉", {f: 0, i: 0}], ["整个换新", {f: 0, i: 1}],
  ["不断累加", {f: 1, i: 1}], ["记着不说", {f: 1, i: 0, o: 0}]];
var v = {}, inputs = {}, steps = 12, element = base.element, line = base.line, words = base.words;
var controls = element("div", {}, root), picture = element("div", {}, root);
function number(x) { return base.number(x, 2); }
knobs.forEach(function (knob) {
  inputs[knob[0]] = base.slider(controls, {name: knob[0], label: knob[1] + (knob[0] === "c" ? "<sub>t−1</sub>" : ""),
    min: knob[2], max: knob[3], step: 0.01, value: knob[4], color: knob[5], show: number, changed: update});
});
var bar = element("div", {className: "presets", role: "group", "aria-label": "几种典型的开法"}, controls);
presets.forEach(function (preset) {
  element("button", {type: "button", textContent: preset[0]}, bar).addEventListener("click", function () {
    for (var key in preset[1]) inputs[key].set(preset[1][key]);
    update();
  });
});
var sum = element("p", {className: "sum", "aria-live": "polite"}, controls);

function sub(name, below) { return name + '<tspan dy="3" font-size="9">' + below + "</tspan>"; }

function bars(c, h) {
  var left = 44, width = 416, zero = 96, unit = 24, out = words(4, 12, "这一步", "", ' style="text-anchor:start"');
  [-3, -2, -1, 0, 1, 2, 3].forEach(function (k) {
    out += line(left, zero - k * unit, width + left - 4, zero - k * unit, k ? "grid" : "grey");
    if (k % 2 || !k) out += '<text class="n" x="' + (left - 14) + '" y="' + (zero - k * unit + 4) + '">' + (k < 0 ? "−" + -k : k) + "</text>";
  });
  var kept = v.f * v.c;
  [[sub("c", "t−1"), 0, v.c, "red"], ["f·c", 0, kept, "orange"], ["i·g", kept, c, "green"],
    [sub("c", "t"), 0, c, "red"], ["tanh c", 0, Math.tanh(c), "grey"], [sub("h", "t"), 0, h, "purple"]
  ].forEach(function (item, k) {
    var x = left + 14 + k * 67, top = zero - Math.max(item[1], item[2]) * unit, height = Math.abs(item[2] - item[1]) * unit;
    out += '<rect x="' + x + '" y="' + top.toFixed(1) + '" width="40" height="' + Math.max(height, 1.5).toFixed(1) + '" rx="2" style="fill:var(--c-' + item[3] + ');fill-opacity:.8"/>';
    if (k === 1 || k === 2) out += line(x + 40, (zero - item[2] * unit).toFixed(1), x + 67, (zero - item[2] * unit).toFixed(1), "grey");
    out += words(x + 20, 190, item[0], item[3]) + words(x + 20, 208, number(item[2] - item[1]), item[3]);
  });
  return out;
}
function curve() {
  var cs = [v.c], hs = [v.o * Math.tanh(v.c)], top = 1;
  for (var t = 1; t <= steps; t++) {
    cs.push(v.f * cs[t - 1] + v.i * v.g);
    hs.push(v.o * Math.tanh(cs[t]));
  }
  cs.forEach(function (c) { top = Math.max(top, Math.ceil(Math.abs(c))); });
  var left = 44, y0 = 304, unit = 56 / top, step = 33;
  var out = words(4, 228, "门一直这样开着，连走 " + steps + " 步", "", ' style="text-anchor:start"');
  [-top, 0, top].forEach(function (k) {
    out += line(left, y0 - k * unit, left + 412, y0 - k * unit, k ? "grid" : "grey");
    out += '<text class="n" x="' + (left - 14) + '" y="' + (y0 - k * unit + 4) + '">' + (k < 0 ? "−" + -k : k) + "</text>";
  });
  [[hs, "purple", "h"], [cs, "red", "c"]].forEach(function (item) {
    var points = item[0].map(function (value, t) { return (left + t * step).toFixed(1) + "," + (y0 - value * unit).toFixed(1); });
    out += '<polyline points="' + points.join(" ") + '" fill="none" style="stroke:var(--c-' + item[1] + ');stroke-width:2"/>';
    points.forEach(function (point) {
      var xy = point.split(",");
      out += '<circle cx="' + xy[0] + '" cy="' + xy[1] + '" r="2.6" style="fill:var(--c-' + item[1] + ')"/>';
    });
    out += words(left + steps * step + 12, y0 - item[0][steps] * unit + (item[2] === "h" && Math.abs(cs[steps] - hs[steps]) * unit < 14 ? 16 : 4), item[2], item[1]);
  });
  for (t = 0; t <= steps; t += 3) out += '<text class="n" x="' + (left + t * step) + '" y="380">' + t + "</text>";
  return out + '<text class="n" x="' + (left + 206) + '" y="398">时间步</text>';
}
function update() {
  knobs.forEach(function (knob) { v[knob[0]] = inputs[knob[0]].get(); });
  var c = v.f * v.c + v.i * v.g, h = v.o * Math.tanh(c);
  root.dataset.c = c;
  root.dataset.h = h;
  sum.innerHTML = "c<sub>t</sub> = " + number(v.f) + " × " + number(v.c) + " + " + number(v.i) + " × " + number(v.g) + " = <b>" + number(c) +
    '</b><br>h<sub>t</sub> = ' + number(v.o) + " × tanh(" + number(c) + ') = <b class="h">' + number(h) + "</b>";
  picture.innerHTML = '<svg viewBox="0 0 466 404" role="img" aria-label="条形图：旧状态 ' + number(v.c) + "，留下 " +
    number(v.f * v.c) + "，写入 " + number(v.i * v.g) + "，新状态 " + number(c) + "，输出 " + number(h) + '；下面是连走 ' + steps + ' 步的曲线">' + bars(c, h) + curve() + "</svg>";
}
update();
