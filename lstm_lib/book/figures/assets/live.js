// 各张可以拨动的图共用的：造元素、滑块、单选、数字的写法、取出嵌在页里的数组。
(function (root) {
  function element(tag, properties, parent) {
    var made = document.createElement(tag);
    for (var key in properties) {
      if (key === "style" || key.indexOf("aria-") === 0 || key === "role") made.setAttribute(key, properties[key]);
      else made[key] = properties[key];
    }
    if (parent) parent.appendChild(made);
    return made;
  }
  // 负号用真正的减号；差一点点到零的不写成 −0.00
  function number(x, digits) {
    var text = Math.abs(x).toFixed(digits === undefined ? 2 : digits);
    return (x < 0 && +text ? "−" : "") + text;
  }
  function sigmoid(z) { return 1 / (1 + Math.exp(-z)); }

  // 一行滑块：标签、滑块、读数。show(值) 给出读数的文字，changed() 在拨动时调用
  function slider(parent, spec) {
    var row = element("div", {className: "row"}, parent), id = root.id + "-" + spec.name;
    var label = element("label", {htmlFor: id, innerHTML: spec.label}, row);
    var input = element("input", {type: "range", id: id, min: spec.min, max: spec.max, step: spec.step || 1}, row);
    var output = element("output", {"aria-hidden": "true"}, row);
    output.setAttribute("for", id);
    input.value = spec.value;
    if (spec.color) {
      label.style.color = "var(--c-" + spec.color + ")";
      input.style.accentColor = "var(--c-" + spec.color + ")";
    }
    function tell() {
      output.textContent = spec.show(+input.value);
      input.setAttribute("aria-valuetext", spec.show(+input.value));
    }
    input.addEventListener("input", function () { tell(); spec.changed(); });
    tell();
    return {
      input: input,
      get: function () { return +input.value; },
      set: function (value) { input.value = value; tell(); }
    };
  }

  // 一组单选：items 是 [[值, 文字], …]
  function choice(parent, spec) {
    var box = element("fieldset", {}, parent), inputs = [];
    element("legend", {textContent: spec.label}, box);
    spec.items.forEach(function (item) {
      var chip = element("label", {className: "chip"}, box);
      var input = element("input", {type: "radio", name: root.id + "-" + spec.name, value: item[0]}, chip);
      element("span", {textContent: item[1]}, chip);
      input.checked = String(item[0]) === String(spec.value);
      input.addEventListener("change", function () { spec.changed(); });
      inputs.push(input);
    });
    return {
      get: function () { return inputs.filter(function (input) { return input.checked; })[0].value; },
      set: function (value) { inputs.forEach(function (input) { input.checked = input.value === String(value); }); }
    };
  }

  // {kind: "f4", data: base64} → 类型数组；f2 是半精度，展开成 Float32Array
  function array(packed) {
    var text = atob(packed.data), bytes = new Uint8Array(text.length);
    for (var k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
    if (packed.kind === "f4") return new Float32Array(bytes.buffer);
    if (packed.kind === "i2") return new Int16Array(bytes.buffer);
    if (packed.kind === "i1") return new Int8Array(bytes.buffer);
    if (packed.kind === "u1") return bytes;
    return Float32Array.from(new Uint16Array(bytes.buffer), function (half) {
      var power = (half >> 10) & 31, rest = half & 1023;
      var size = power ? (1 + rest / 1024) * Math.pow(2, power - 15) : rest * Math.pow(2, -24);
      return half & 32768 ? -size : size;
    });
  }

  function line(x0, y0, x1, y1, color, width) {
    return '<path d="M' + x0 + " " + y0 + "L" + x1 + " " + y1 + '" fill="none" style="stroke:var(--c-' + color + ");stroke-width:" + (width || 1) + '"/>';
  }
  function words(x, y, text, color, extra) {
    return '<text x="' + x + '" y="' + y + '"' + (extra || "") + (color ? ' style="fill:var(--c-' + color + ')"' : "") + ">" + text + "</text>";
  }

  // JupyterLab 会抢走方向键：图里的按键只留给图
  function keep(event) {
    if (!root.isConnected) window.removeEventListener("keydown", keep, true);
    else if (root.contains(event.target) && event.key !== "Tab" && event.key !== "Escape") event.stopPropagation();
  }
  window.addEventListener("keydown", keep, true);

  // 一排数：items 是 [[键, 名字], …]；返回 {键: 显示数的元素}
  function facts(parent, items, attributes) {
    var list = element("dl", Object.assign({className: "figures"}, attributes), parent), shown = {};
    items.forEach(function (item) {
      var box = element("div", {}, list);
      element("dt", {textContent: item[1]}, box);
      shown[item[0]] = element("dd", {}, box);
    });
    return shown;
  }
  return {element: element, facts: facts, number: number, sigmoid: sigmoid, slider: slider, choice: choice, array: array, line: line, words: words};
})
