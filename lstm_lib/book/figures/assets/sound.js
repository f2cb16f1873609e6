// 声音的图共用的：μ 律、FFT、STFT 与逆变换（约定同 enhance.audio）、对比播放器与它的热图。
(function (base) {
  var size = 512, hop = 256, bins = 257, rate = 16000;
  var windowed = Float64Array.from({length: size}, function (_, n) { return Math.sin(Math.PI * n / size); });
  var cosines = Float64Array.from({length: size / 2}, function (_, n) { return Math.cos(2 * Math.PI * n / size); });
  var sines = Float64Array.from({length: size / 2}, function (_, n) { return Math.sin(2 * Math.PI * n / size); });
  var reversed = Uint16Array.from({length: size}, function (_, n) {
    for (var bit = 0, out = 0; bit < 9; bit++) out |= ((n >> bit) & 1) << (8 - bit);
    return out;
  });

  // 就地做 512 点复数 FFT；sign 为 −1 是正变换，+1 是没有除以 512 的逆变换
  function fft(re, im, sign) {
    for (var n = 0; n < size; n++) {
      var m = reversed[n];
      if (m > n) { var a = re[n]; re[n] = re[m]; re[m] = a; a = im[n]; im[n] = im[m]; im[m] = a; }
    }
    for (var half = 1; half < size; half *= 2) {
      var stride = size / 2 / half;
      for (var start = 0; start < size; start += 2 * half) {
        for (var k = 0; k < half; k++) {
          var c = cosines[k * stride], s = sign * sines[k * stride], low = start + k, high = low + half;
          var x = re[high] * c - im[high] * s, y = re[high] * s + im[high] * c;
          re[high] = re[low] - x; im[high] = im[low] - y;
          re[low] += x; im[low] += y;
        }
      }
    }
  }
  // 波形 → {frames, re, im}，两个 Float64Array (T × 257)；首尾各补 256 个零
  function stft(wave) {
    var hops = Math.ceil(wave.length / hop), frames = hops + 1;
    var out = {frames: frames, re: new Float64Array(frames * bins), im: new Float64Array(frames * bins)};
    var re = new Float64Array(size), im = new Float64Array(size);
    for (var t = 0; t < frames; t++) {
      im.fill(0);
      for (var n = 0; n < size; n++) re[n] = (wave[(t - 1) * hop + n] || 0) * windowed[n];
      fft(re, im, -1);
      out.re.set(re.subarray(0, bins), t * bins);
      out.im.set(im.subarray(0, bins), t * bins);
    }
    return out;
  }
  // 掩蔽 (T × 257) 乘带噪谱，还原成 length 个样点
  function masked(spectrum, mask, length) {
    var wave = new Float32Array(length), re = new Float64Array(size), im = new Float64Array(size);
    for (var t = 0; t < spectrum.frames; t++) {
      for (var k = 0; k < bins; k++) {
        var at = t * bins + k, gain = mask[at];
        re[k] = gain * spectrum.re[at];
        im[k] = gain * spectrum.im[at];
        if (k && k < size / 2) { re[size - k] = re[k]; im[size - k] = -im[k]; }
      }
      im[0] = im[size / 2] = 0;
      fft(re, im, 1);
      for (var n = 0; n < size; n++) {
        var place = (t - 1) * hop + n;
        if (place >= 0 && place < length) wave[place] += re[n] / size * windowed[n];
      }
    }
    return wave;
  }
  function magnitude(spectrum) {
    return spectrum.re.map(function (re, k) { return Math.hypot(re, spectrum.im[k]); });
  }
  // 8 位 μ 律：{kind: "u1", data, peak} → 波形
  function expand(coded) {
    return Float32Array.from(base.array(coded), function (code) {
      var x = (code - 128) / 127;
      return coded.peak * (x < 0 ? -1 : 1) * (Math.pow(256, Math.abs(x)) - 1) / 255;
    });
  }
  // 尺度不变信号失真比，dB
  function siSdr(clean, wave) {
    var dot = 0, own = 0, rest = 0;
    for (var n = 0; n < clean.length; n++) { dot += clean[n] * wave[n]; own += clean[n] * clean[n]; }
    for (n = 0; n < clean.length; n++) rest += Math.pow(wave[n] - dot / own * clean[n], 2);
    return 10 * Math.log10(dot * dot / own / rest);
  }

  // 对比播放器（players.js）：一路一幅热图，声音是页上算的；几路同样长，length 个样点
  function compare(parent, names, title, length) {
    var box = base.element("div", {className: "book-players", role: "group", "aria-label": "声音对比：" + title}, parent);
    box.dataset.seconds = length / rate;
    var tracks = base.element("div", {className: "tracks"}, box);
    var parts = names.map(function (name) {
      var figure = base.element("figure", {}, tracks), waiting = 0, heard = false;
      base.element("figcaption", {textContent: name}, figure);
      var canvas = base.element("canvas", {role: "img"}, figure);
      return {
        // 拨动时会连着换很多次，停下来才换声音
        hear: function (wave, gain) {
          clearTimeout(waiting);
          waiting = setTimeout(function () {
            heard = true;
            box.player.set(names.indexOf(name), Float32Array.from(wave, function (v) { return Math.max(-1, Math.min(1, v * gain)); }));
          }, heard ? 120 : 0);
        },
        // values (T × 257) 由 low 到 high 上色，频率向上
        draw: function (values, frames, low, high, colors, said) {
          canvas.width = frames;
          canvas.height = bins;
          canvas.setAttribute("aria-label", said);
          var context = canvas.getContext("2d"), image = context.createImageData(frames, bins);
          for (var t = 0; t < frames; t++) {
            for (var k = 0; k < bins; k++) {
              var level = (values[t * bins + k] - low) / (high - low), count = colors.length / 3;
              var color = 3 * Math.max(0, Math.min(count - 1, Math.floor(level * count))), at = 4 * ((bins - 1 - k) * frames + t);
              image.data[at] = colors[color];
              image.data[at + 1] = colors[color + 1];
              image.data[at + 2] = colors[color + 2];
              image.data[at + 3] = 255;
            }
          }
          context.putImageData(image, 0, 0);
        }
      };
    });
    window.lstmPlayers.upgrade(box);
    return parts;
  }
  base.sound = {bins: bins, stft: stft, masked: masked, magnitude: magnitude, expand: expand, siSdr: siSdr, compare: compare};
})
