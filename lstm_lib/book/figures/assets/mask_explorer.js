// 拨信噪比与 β，看理想掩蔽、听增强的结果；再把掩蔽困在窄缝里。
var number = base.number, sound = base.sound, colors = base.array(data.colors);
var clean = sound.expand(data.clean), noise = sound.expand(data.noise), S = sound.stft(clean), N = sound.stft(noise), frames = S.frames;
var speechPower = sound.magnitude(S).map(function (v) { return v * v; }), noisePower = sound.magnitude(N).map(function (v) { return v * v; });
function power(wave) { return wave.reduce(function (sum, v) { return sum + v * v; }, 0); }
var ratio = Math.sqrt(power(clean) / power(noise)); // 噪声乘上它，信噪比就是 0 dB

// 信噪比 snr（dB）下的理想比值掩蔽，与照它增强的声音；low、high 是掩蔽的上下限
function enhance(snr, beta, low, high) {
  var gain = ratio / Math.pow(10, snr / 20), noisy = new Float64Array(clean.length);
  for (var n = 0; n < noisy.length; n++) noisy[n] = clean[n] + gain * noise[n];
  var spectrum = {frames: frames, re: S.re.map(function (v, k) { return v + gain * N.re[k]; }), im: S.im.map(function (v, k) { return v + gain * N.im[k]; })};
  var mask = speechPower.map(function (s, k) {
    return Math.min(high, Math.max(low, Math.pow(s / Math.max(s + gain * gain * noisePower[k], 1e-12), beta)));
  });
  var wave = sound.masked(spectrum, mask, clean.length);
  return {noisy: noisy, spectrum: spectrum, mask: mask, wave: wave, before: sound.siSdr(clean, noisy), after: sound.siSdr(clean, wave)};
}

var controls = base.element("div", {}, root), timer = 0;
function changed() { clearTimeout(timer); timer = setTimeout(update, 0); }
var snr = base.slider(controls, {name: "snr", label: "信噪比", min: -10, max: 20, value: 0, show: function (v) { return number(v, 0) + " dB"; }, changed: changed});
var beta = base.slider(controls, {name: "beta", label: "指数 β", min: 0.25, max: 2, step: 0.25, value: 0.5, show: function (v) { return number(v, 2); }, changed: changed});
var limits = base.choice(root, {name: "limits", label: "掩蔽", value: "free", items: [["free", "0 到 1"], ["tight", "困在 (" + number(data.low, 3) + ", " + number(data.high, 3) + ")"]], changed: changed});
var shown = base.facts(root, [["before", "带噪的 SI-SDR"], ["after", "增强的 SI-SDR"], ["gain", "提高"], ["contrast", "掩蔽的最大与最小"]], {"aria-live": "polite"});
var players = sound.compare(root, ["带噪", "掩蔽与增强", "纯净"], data.title, clean.length);
base.element("p", {className: "note", textContent: "中间一条是理想掩蔽（亮的放行），上下两条是语谱图，同一个色标。"}, root);

function decibels(spectrum) { return sound.magnitude(spectrum).map(function (v) { return 20 * Math.log10(v + 1e-9); }); }
var level = decibels(S), top = level.reduce(function (a, b) { return Math.max(a, b); }), loud = 0.9 / clean.reduce(function (a, v) { return Math.max(a, Math.abs(v)); }, 1e-9);
function update() {
  var tight = limits.get() === "tight", found = enhance(snr.get(), beta.get(), tight ? data.low : 0, tight ? data.high : 1);
  var low = found.mask.reduce(function (a, b) { return Math.min(a, b); }), high = found.mask.reduce(function (a, b) { return Math.max(a, b); });
  var peak = found.noisy.reduce(function (a, v) { return Math.max(a, Math.abs(v)); }, 1e-9), gain = Math.min(loud, 0.9 / peak);
  shown.before.textContent = number(found.before, 1) + " dB";
  shown.after.textContent = number(found.after, 1) + " dB";
  shown.gain.textContent = number(found.after - found.before, 1) + " dB";
  shown.contrast.textContent = number(high, 3) + "，" + number(low, 3);
  players[0].draw(decibels(found.spectrum), frames, top - 65, top, colors, "带噪语音的语谱图，信噪比 " + number(snr.get(), 0) + " dB");
  players[1].draw(found.mask, frames, 0, 1, colors, "理想掩蔽，在 " + number(low, 3) + " 与 " + number(high, 3) + " 之间");
  players[0].hear(found.noisy, gain);
  players[1].hear(found.wave, gain);
  players[2].hear(clean, gain);
}
players[2].draw(level, frames, top - 65, top, colors, data.title + "：纯净语音的语谱图");
update();
root.figure = {enhance: enhance};
