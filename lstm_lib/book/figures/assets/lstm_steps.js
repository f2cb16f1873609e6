// 沿着一段真的声音拨时刻：一个单元的四个门、细胞状态与隐藏状态，算式里的数都填好。
var number = base.number, frames = data.frames, gates = "ifgo";
var parts = base.array(data.parts), bias = base.array(data.bias); // (单元, 帧, 4, 2)：W x、U h；(单元, 4)
var lanes = [["i", "输入门", "blue"], ["f", "遗忘门", "orange"], ["g", "候选值", "green"], ["o", "输出门", "purple"],
  ["c", "细胞状态", "red"], ["h", "隐藏状态", "purple"]];

// 第 k 个单元走完全程：每一帧的六个数
function run(k) {
  var out = {i: [], f: [], g: [], o: [], c: [], h: []}, c = 0;
  for (var t = 0; t < frames; t++) {
    for (var n = 0; n < 4; n++) {
      var at = ((k * frames + t) * 4 + n) * 2, z = parts[at] + parts[at + 1] + bias[k * 4 + n];
      out[gates[n]].push(n === 2 ? Math.tanh(z) : base.sigmoid(z));
    }
    c = out.f[t] * c + out.i[t] * out.g[t];
    out.c.push(c);
    out.h.push(out.o[t] * Math.tanh(c));
  }
  return out;
}
// 第 k 个单元、第 t 帧：预激活值的三项，与算出来的六个数
function at(k, t) {
  var values = runs[k], found = {t: t, before: {}, old: t ? values.c[t - 1] : 0};
  lanes.forEach(function (lane) { found[lane[0]] = values[lane[0]][t]; });
  for (var n = 0; n < 4; n++) {
    var from = ((k * frames + t) * 4 + n) * 2;
    found.before[gates[n]] = [parts[from], parts[from + 1], bias[k * 4 + n]];
  }
  return found;
}
var runs = data.units.map(function (unit, k) { return run(k); });
var unit = 0, now = data.start;

var pick = base.choice(root, {name: "unit", label: "单元", value: 0, items: data.units.map(function (item, k) { return [k, item.number + " 号：" + item.name]; }),
  changed: function () { unit = +pick.get(); drawLanes(); update(); }});
var sound = base.element("audio", {controls: true, preload: "none", src: data.sound, "aria-label": data.title + "，听到哪里，竖线就走到哪里"}, root);

var stack = base.element("div", {className: "lanes"}, root), marks = [], plots = {}, values = {};
function lane(letter, name, color, kind) {
  var row = base.element("div", {className: "lane"}, stack);
  var label = base.element("div", {}, row);
  label.innerHTML = (letter ? "<b>" + letter + "</b> " : "") + '<span class="name">' + name + "</span>";
  if (color) label.style.color = "var(--c-" + color + ")";
  var plot = base.element("div", {className: "plot " + kind}, row);
  values[letter] = base.element("div", {className: "now"}, row);
  return plot;
}
function mark(plot) { marks.push(base.element("i", {}, plot)); }
var picture = lane("", "带噪语音", "", "sound");
base.element("img", {src: data.picture, alt: data.title + "的语谱图：横轴 0 到 " + number(frames * data.step, 1) + " 秒，纵轴 0 到 8 kHz，越亮越强"}, picture);
mark(picture);
lanes.forEach(function (item) { plots[item[0]] = lane(item[0], item[1], item[2], ""); mark(plots[item[0]]); });

// 一条线的上下界：门是 0 到 1，候选值与隐藏状态是 −1 到 1，细胞状态看它自己走到哪里
function range(letter) {
  if (letter === "c") {
    var top = Math.max.apply(null, runs[unit].c.map(Math.abs));
    return [-Math.max(top, 1), Math.max(top, 1)];
  }
  return letter === "g" || letter === "h" ? [-1, 1] : [0, 1];
}
function drawLanes() {
  lanes.forEach(function (item) {
    var limits = range(item[0]), points = runs[unit][item[0]].map(function (value, t) {
      return ((t + 0.5) / frames * 100).toFixed(2) + "," + (33 - 30 * (value - limits[0]) / (limits[1] - limits[0])).toFixed(2);
    });
    var middle = limits[0] < 0 ? '<path d="M0 18H100" vector-effect="non-scaling-stroke" style="stroke:var(--c-grey);stroke-width:.7"/>' : "";
    var old = plots[item[0]].querySelector("svg");
    if (old) old.remove();
    plots[item[0]].insertAdjacentHTML("afterbegin", '<svg viewBox="0 0 100 36" preserveAspectRatio="none" role="img" aria-label="' + item[1] + item[0] + " 随时间的变化，纵轴 " +
      number(limits[0], 1) + " 到 " + number(limits[1], 1) + '">' + middle + '<polyline points="' + points.join(" ") +
      '" fill="none" vector-effect="non-scaling-stroke" style="stroke:var(--c-' + item[2] + ');stroke-width:1.4"/></svg>');
  });
}

var time = base.slider(root, {name: "time", label: "时刻（帧）", min: 0, max: frames - 1, value: now,
  show: function (t) { return number(t * data.step, 2) + " 秒"; }, changed: function () { seek(time.get()); }});
time.input.parentElement.classList.add("time");
var table = base.element("div", {className: "equations"}, root);
base.element("p", {className: "note", innerHTML: "前四行括号里的三项依次是：这一帧的输入 W x、上一步的输出 U h、偏置 b（两个偏置已相加）。显示的数四舍五入到四位，拿计算器验算时末位可能差一点。"}, root);
var said = base.element("div", {className: "hidden", "aria-live": "polite"}, root);

function bar(value, limits, color) {
  var zero = -limits[0] / (limits[1] - limits[0]) * 100, end = (value - limits[0]) / (limits[1] - limits[0]) * 100;
  return '<svg viewBox="0 0 100 26" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="14" y="6" style="fill:var(--c-panel)"/><rect x="' +
    Math.min(zero, end).toFixed(2) + '" y="6" height="14" width="' + Math.max(Math.abs(end - zero), 0.6).toFixed(2) + '" style="fill:var(--c-' + color +
    ');fill-opacity:.85"/><path d="M' + zero.toFixed(2) + ' 2V24" vector-effect="non-scaling-stroke" style="stroke:var(--c-grey)"/></svg>';
}
function joined(terms) {
  return terms.map(function (term, k) {
    return k ? "<span>" + (term < 0 && +term.toFixed(4) ? "− " : "+ ") + Math.abs(term).toFixed(4) + "</span>" : number(term, 4);
  }).join(" ");
}
function update() {
  var v = at(unit, now), rows = "";
  gates.split("").forEach(function (gate, n) {
    var z = v.before[gate][0] + v.before[gate][1] + v.before[gate][2], f = gate === "g" ? "tanh" : "σ", item = lanes[n];
    rows += '<div style="color:var(--c-' + item[2] + ')">' + gate + "<sub>t</sub> = " + f + "(" + joined(v.before[gate]) + ") <span>= " + f + "(" + number(z, 4) + ")</span> <span>= <b>" +
      number(v[gate], 4) + "</b></span></div>" + bar(v[gate], range(gate), item[2]);
  });
  rows += '<div style="color:var(--c-red)">c<sub>t</sub> = f c<sub>t−1</sub> + i g <span>= ' + number(v.f, 4) + " × " + (v.old < -0.00005 ? "(" + number(v.old, 4) + ")" : number(v.old, 4)) + "</span> <span>" +
    (v.g < 0 ? "− " : "+ ") + number(v.i, 4) + " × " + number(Math.abs(v.g), 4) + "</span> <span>= <b>" + number(v.c, 4) + "</b></span></div>" + bar(v.c, range("c"), "red");
  rows += '<div style="color:var(--c-purple)">h<sub>t</sub> = o tanh(c<sub>t</sub>) <span>= ' + number(v.o, 4) + " × tanh(" + number(v.c, 4) + ")</span> <span>= <b>" + number(v.h, 4) + "</b></span></div>" + bar(v.h, range("h"), "purple");
  table.innerHTML = rows;
  lanes.forEach(function (item) { values[item[0]].textContent = number(v[item[0]], 3); });
  marks.forEach(function (item) { item.style.left = (now + 0.5) / frames * 100 + "%"; });
  values[""].textContent = "第 " + now + " 帧";
  said.textContent = "第 " + now + " 帧：" + lanes.map(function (item) { return item[1] + " " + number(v[item[0]], 2); }).join("，");
}
function show(t) { now = Math.min(frames - 1, Math.max(0, t)); time.set(now); update(); }
function seek(t) {
  show(t);
  if (sound.readyState) sound.currentTime = now * data.step;
}
// 在线条上按住拖动，等于拨滑块
function drag(event) {
  if (event.type === "pointermove" && !event.buttons) return;
  var box = picture.getBoundingClientRect();
  seek(Math.floor((event.clientX - box.left) / box.width * frames));
}
stack.addEventListener("pointerdown", drag);
stack.addEventListener("pointermove", drag);
function follow() {
  if (sound.paused) return;
  show(Math.round(sound.currentTime / data.step));
  requestAnimationFrame(follow);
}
sound.addEventListener("play", function () {
  if (Math.abs(sound.currentTime - now * data.step) > data.step && now < frames - 2) sound.currentTime = now * data.step;
  follow();
});
drawLanes();
update();
root.figure = {run: run, at: at, seek: seek, choose: function (k) { pick.set(k); unit = k; drawLanes(); update(); }};
