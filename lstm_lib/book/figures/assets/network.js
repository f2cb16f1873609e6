// 放得进网页的小网络：一层 LSTM（门按 i f g o 排）与线性层，从幅度谱 (T × 257) 算到掩蔽 (T × 257)。
(function (base) {
  base.network = function (data, bins) {
    var hidden = data.hidden, inputs = bins - 1; // 输入不含直流
    var head = base.array(data.head), headBias = base.array(data.headBias);
    // use 里是要用的 W、U、bias；round 在每一帧作用于 x 与 h
    function run(x, frames, use, round) {
      var h = new Float64Array(hidden), c = new Float64Array(hidden), z = new Float64Array(4 * hidden);
      var out = new Float64Array(frames * bins);
      for (var t = 0; t < frames; t++) {
        var v = round(x.subarray(t * bins + 1, (t + 1) * bins)), previous = round(h);
        for (var row = 0; row < 4 * hidden; row++) {
          var sum = use.bias[row];
          for (var k = 0, at = row * inputs; k < inputs; k++) sum += use.W[at + k] * v[k];
          for (k = 0, at = row * hidden; k < hidden; k++) sum += use.U[at + k] * previous[k];
          z[row] = sum;
        }
        for (k = 0; k < hidden; k++) {
          c[k] = base.sigmoid(z[hidden + k]) * c[k] + base.sigmoid(z[k]) * Math.tanh(z[2 * hidden + k]);
          h[k] = base.sigmoid(z[3 * hidden + k]) * Math.tanh(c[k]);
        }
        for (row = 0; row < bins; row++) {
          sum = headBias[row];
          for (k = 0, at = row * hidden; k < hidden; k++) sum += head[at + k] * h[k];
          out[t * bins + row] = base.sigmoid(sum);
        }
      }
      return out;
    }
    return {hidden: hidden, inputs: inputs, W: base.array(data.W), U: base.array(data.U), bias: base.array(data.bias), run: run};
  };
})
