// 会横向滚动的块可以用键盘够到；打印、播放器、手机上的目录、搜索跳转的几处小事。
(() => {
  const scrollers =
    "pre, div.math, .cell_output, .cell_output > .output, .fig-scroll, .pst-scrollable-table-container, .table-scroll, mjx-container[display='true']";

  function markScrollers() {
    for (const block of document.querySelectorAll(scrollers)) {
      const wide = block.scrollWidth > block.clientWidth + 1;
      if (block.querySelector(":scope > table")) block.classList.toggle("sticky-table", wide);
      if (wide && !block.hasAttribute("tabindex")) {
        block.setAttribute("tabindex", "0");
        if (!block.hasAttribute("role")) block.setAttribute("role", "region");
        if (!block.hasAttribute("aria-label")) block.setAttribute("aria-label", "可横向滚动的内容");
        block.addEventListener("scroll", () => markMore(block), { passive: true });
      }
      markMore(block);
    }
  }

  // 哪一边还有内容，写在 data-more 里，样式表让那一边淡出
  function markMore(block) {
    const rest = block.scrollWidth - block.clientWidth - block.scrollLeft;
    const more = [block.scrollLeft > 1 && "left", rest > 1 && "right"].filter(Boolean).join(" ");
    const scrolls = more && /auto|scroll/.test(getComputedStyle(block).overflowX);
    if (scrolls) block.dataset.more = more;
    else delete block.dataset.more;
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

  // 表格横着拖的时候第一列不动；并了格的表里，下面各行的头一格不在第一列
  function markFirstColumns() {
    for (const table of document.querySelectorAll(".bd-article table")) {
      let covered = 0; // 第一列的并格还要往下占几行
      for (const row of table.rows) {
        if (covered > 0) covered -= 1;
        else if (row.cells.length > 1) {
          row.cells[0].classList.add("first-column");
          covered = row.cells[0].rowSpan - 1;
        }
      }
    }
  }

  // 打印：折叠的内容打开（Netron 的框除外，它不必为打印载入），颜色换成浅色，打完还原
  let opened = [];
  let theme = "";
  function openAll() {
    opened = [...document.querySelectorAll("details:not([open]):not(.netron-frame)")];
    opened.forEach((item) => (item.open = true));
    theme = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
  }
  function restore() {
    opened.forEach((item) => (item.open = false));
    opened = [];
    if (theme) document.documentElement.dataset.theme = theme;
  }

  // 一次只放一段声音：前后对比时，点了这个就停下那个
  document.addEventListener(
    "play",
    (event) => document.querySelectorAll("audio").forEach((item) => item !== event.target && item.pause()),
    true,
  );

  // ← → 翻到相邻的章（doctools.js 管）；正在播放器、滑块、横着拖的块、对话框里用方向键时不翻
  const usesArrows = "audio, video, dialog, [role='slider'], [role='region'], [role='tablist'], [contenteditable='true']";
  document.addEventListener("DOMContentLoaded", () =>
    document.body.addEventListener("keydown", (event) => {
      if (/^Arrow(Left|Right)$/.test(event.key) && event.target.closest(usesArrows)) event.stopPropagation();
    }),
  );

  // 手机上的本页目录是一个对话框：点了条目就收起来，焦点跟到那一节
  document.addEventListener("click", (event) => {
    const link = event.target.closest("#pst-secondary-sidebar-modal a[href^='#']");
    if (!link) return;
    const target = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    document.getElementById("pst-secondary-sidebar-modal").close();
    const heading = target && (target.querySelector("h1, h2, h3, h4") || target);
    if (!heading) return;
    heading.setAttribute("tabindex", "-1");
    heading.focus({ preventScroll: true });
    target.scrollIntoView();
  });

  // 折叠按钮的名字是脚本运行时才放上去的英文
  function nameButtons() {
    document.querySelectorAll('[aria-label="Toggle hidden content"]').forEach((button) => {
      button.setAttribute("aria-label", "展开或收起这一段");
    });
  }

  // 对话框有名字；按 Esc 收起之后，焦点回到打开它的按钮
  function nameDialogs() {
    const names = { "pst-search-dialog": "搜索", "pst-primary-sidebar-modal": "目录", "pst-secondary-sidebar-modal": "本页目录" };
    for (const [id, name] of Object.entries(names)) {
      const dialog = document.getElementById(id);
      if (!dialog) continue;
      dialog.setAttribute("aria-label", name);
      const kind = id.match(/primary|secondary/)?.[0];
      const button = kind && document.querySelector(`.sidebar-toggle.${kind}-toggle`);
      if (button) dialog.addEventListener("cancel", () => setTimeout(() => button.focus()));
    }
  }

  // 手机上很宽的图先露出中间：主干在那里
  function centerWideFigures() {
    for (const box of document.querySelectorAll("figure.full-width .fig-scroll")) {
      box.scrollLeft = (box.scrollWidth - box.clientWidth) / 2;
    }
  }

  // 从搜索结果点进来：滚到第一处搜到的词
  function showFirstMatch() {
    setTimeout(() => {
      if (location.hash) return; // 到这时才看：读者也许已经点了别的链接
      document.querySelector("article .highlighted")?.scrollIntoView({ block: "center" });
    }, 300);
  }

  document.addEventListener("toggle", markScrollers, true); // 折叠的内容打开之后才有宽度
  window.addEventListener("beforeprint", openAll);
  window.addEventListener("afterprint", restore);
  document.addEventListener("DOMContentLoaded", () => {
    wrapTables();
    markFirstColumns();
    markScrollers();
    nameDialogs();
    // 公式排好之后宽度才定
    const ready = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    if (ready) ready.then(markScrollers);
  });
  window.addEventListener("load", () => {
    const ready = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    if (ready) ready.then(markScrollers);
    markScrollers();
    nameButtons();
    centerWideFigures();
    showFirstMatch();
  });
  let pending = 0;
  window.addEventListener("resize", () => {
    clearTimeout(pending);
    pending = setTimeout(markScrollers, 200);
  });
})();
