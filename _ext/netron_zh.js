// 本书给 Netron 网页加的一层：界面译成中文，颜色跟着书页的明暗，输入框有读屏软件念得出的名字。
(() => {
  const words = {
    "Model Properties": "模型属性",
    "Graph Properties": "计算图属性",
    "Function Properties": "函数属性",
    "Weights Properties": "权重属性",
    "Target Properties": "计算图属性",
    "Node Properties": "节点属性",
    "Connection Properties": "连线属性",
    "Tensor Properties": "张量属性",
    Attributes: "属性",
    Inputs: "输入",
    Outputs: "输出",
    Blocks: "块",
    Metadata: "元数据",
    Metrics: "统计",
    Find: "查找",
    Documentation: "说明",
    File: "文件",
    Edit: "编辑",
    View: "视图",
    Help: "帮助",
    "Open...": "打开…",
    "Export as PNG": "导出 PNG",
    "Export as SVG": "导出 SVG",
    "Find...": "查找…",
    "Show Attributes": "显示属性",
    "Hide Attributes": "隐藏属性",
    "Show Weights": "显示权重",
    "Hide Weights": "隐藏权重",
    "Show Names": "显示名字",
    "Hide Names": "隐藏名字",
    "Show Horizontal": "横向排列",
    "Show Vertical": "纵向排列",
    "Mouse Wheel: Zoom": "滚轮：缩放",
    "Mouse Wheel: Scroll": "滚轮：滚动",
    "Open Model…": "打开模型…",
    "Zoom In": "放大",
    "Zoom Out": "缩小",
    "Actual Size": "实际大小",
    "Properties...": "属性…",
    "Report Issue": "报告问题",
    "About Netron": "关于 Netron",
    Back: "返回",
    Close: "关闭",
    Cancel: "取消",
    OK: "好",
  };
  const places = ["sidebar", "menu", "toolbar", "logo", "message-button", "menu-button"];
  // 加载中与“关于”两页上的链接，里面只有画，没有字
  const links = { "github.com/lutzroeder/netron": "Netron 的代码仓库", "www.lutzroeder.com": "Netron 作者的主页" };

  function nameLinks() {
    for (const link of document.querySelectorAll("a[href^='https://']")) {
      const name = links[link.href.replace(/^https:\/\/|\/$/g, "")];
      if (name && !link.textContent.trim()) link.setAttribute("aria-label", name);
    }
  }

  function translate(root) {
    const nodes = [];
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) nodes.push(walker.currentNode);
    for (const node of nodes) {
      // 菜单里一个词可能被助记字母拆成几段，所以连同父元素一起看
      const pieces = node.parentElement?.closest(".menu-label, .menu-group-header");
      const label = pieces || node.parentElement;
      const text = label?.textContent.trim();
      if ((pieces || label?.childNodes.length === 1) && Object.hasOwn(words, text)) label.textContent = words[text];
    }
    for (const item of root.querySelectorAll("[title]")) {
      if (Object.hasOwn(words, item.title)) item.title = words[item.title];
    }
    for (const box of root.querySelectorAll("input, textarea, select")) {
      const name = box.type === "file" ? "模型文件" : box.title || box.placeholder || "查找";
      if (!box.hasAttribute("aria-label")) box.setAttribute("aria-label", name);
    }
  }

  // 节点原来只能用鼠标点：让 Tab 键走得到，回车等于点击
  function reachNodes() {
    for (const node of document.querySelectorAll("#target .node-item-type:not([tabindex])")) {
      node.setAttribute("tabindex", "0");
      node.setAttribute("role", "button");
    }
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.target.matches(".node-item-type")) return;
    event.preventDefault();
    event.target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  });

  // 书页把明暗记在 <html data-theme>；单独打开这一页时，记在同一网站的 localStorage 里
  function theme() {
    try {
      const book = window.parent === window ? null : window.parent.document.documentElement.dataset.theme;
      if (book) return book;
      const saved = localStorage.getItem("theme");
      if (saved === "dark" || saved === "light") return saved;
    } catch {
      // 从磁盘直接打开时读不到，跟随系统
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  const darkRules = [];
  function paint() {
    if (!darkRules.length) {
      for (const sheet of document.styleSheets) {
        for (const rule of sheet.cssRules) {
          if (rule.media?.mediaText.includes("prefers-color-scheme: dark")) darkRules.push(rule);
        }
      }
    }
    const now = (document.documentElement.dataset.theme = theme());
    for (const rule of darkRules) rule.media.mediaText = now === "dark" ? "all" : "not all";
  }

  // 菜单里的分组名与快捷键，原来的灰色太淡
  const style = document.createElement("style");
  style.textContent = `
    html .menu-group .menu-group-header, html .menu-command .menu-shortcut { color: #595959 !important; }
    html[data-theme="dark"] .menu-group-header, html[data-theme="dark"] .menu-shortcut { color: #b8b8b8 !important; }
    html .menu-command:focus .menu-shortcut { color: #ffffff !important; }
    .node-item-type:focus { outline: none; }
    .node-item-type:focus-visible path { stroke: #e8710a; stroke-width: 2.5; }`;
  document.head.append(style);

  document.documentElement.lang = "zh-CN";
  document.addEventListener("DOMContentLoaded", nameLinks);
  window.addEventListener("load", () => {
    paint();
    document.getElementById("target")?.setAttribute("role", "main");
    window.addEventListener("storage", paint);
    try {
      if (window.parent !== window) {
        const watched = { attributes: true, attributeFilter: ["data-theme"] };
        new MutationObserver(paint).observe(window.parent.document.documentElement, watched);
      }
    } catch {
      // 同上
    }
    const observer = new MutationObserver(refresh);
    function refresh() {
      observer.disconnect(); // 自己的改动不算
      reachNodes();
      observer.observe(document.getElementById("target"), { childList: true, subtree: true });
      for (const name of places) {
        const root = document.getElementById(name);
        if (!root) continue;
        translate(root);
        observer.observe(root, { childList: true, subtree: true, characterData: true });
      }
    }
    refresh();
  });
})();
