// 会横向滚动的块可以用键盘够到；打印前把折叠的内容打开，打印后还原。
(() => {
  const scrollers =
    "pre, div.math, .cell_output, .fig-scroll, .pst-scrollable-table-container, .table-scroll, mjx-container[display='true']";

  function markScrollers() {
    for (const block of document.querySelectorAll(scrollers)) {
      const wide = block.scrollWidth > block.clientWidth + 1;
      if (wide && !block.hasAttribute("tabindex")) {
        block.setAttribute("tabindex", "0");
        if (!block.hasAttribute("role")) block.setAttribute("role", "region");
        if (!block.hasAttribute("aria-label")) block.setAttribute("aria-label", "可横向滚动的内容");
      }
    }
  }

  // 笔记本输出里的表格没有自己的滚动框，给它套一个
  function wrapTables() {
    for (const table of document.querySelectorAll(".bd-article table")) {
      if (table.closest(".pst-scrollable-table-container, .table-scroll, .cell_output")) continue;
      const box = document.createElement("div");
      box.className = "table-scroll";
      table.replaceWith(box);
      box.append(table);
    }
  }

  let opened = [];
  function openAll() {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((item) => (item.open = true));
  }
  function restore() {
    opened.forEach((item) => (item.open = false));
    opened = [];
  }

  window.addEventListener("beforeprint", openAll);
  window.addEventListener("afterprint", restore);
  document.addEventListener("DOMContentLoaded", () => {
    wrapTables();
    markScrollers();
    // 公式排好之后宽度才定
    const ready = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    if (ready) ready.then(markScrollers);
  });
  window.addEventListener("load", () => {
    const ready = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    if (ready) ready.then(markScrollers);
    markScrollers();
  });
  let pending = 0;
  window.addEventListener("resize", () => {
    clearTimeout(pending);
    pending = setTimeout(markScrollers, 200);
  });
})();
