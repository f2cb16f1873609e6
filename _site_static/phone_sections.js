// 手机上的长章：第一节照旧，后面各节先只留标题与篇幅，点标题才展开；查找、链接、打印都够得着收起的内容。
(() => {
  const PHONE = matchMedia("(max-width: 600px)");
  const LONG = 15; // 屏；更短的页不必收

  const headingOf = (section) => section.querySelector(":scope > h2");
  const isOpen = (section) => !section.classList.contains("folded");
  const linked = (hash) => document.getElementById(decodeURIComponent(hash.slice(1)));

  let settled = false; // 公式排好没有：排的时候要量字号，藏起来就量不准

  // 用 hidden="until-found"：浏览器的“在页面中查找”照样找得到，找到就展开
  function set(section, open) {
    const children = [...section.children];
    for (const block of children.slice(children.indexOf(headingOf(section)) + 1)) {
      if (open) block.removeAttribute("hidden");
      else if (settled) block.setAttribute("hidden", "until-found");
    }
    section.classList.toggle("folded", !open);
    headingOf(section).querySelector(".section-toggle").setAttribute("aria-expanded", String(open));
    if (open) dispatchEvent(new Event("resize")); // 里面的块现在才量得出宽度
  }

  // 标题的字都放进一个按钮，后面写上这一节有几屏
  function addToggle(section) {
    const screens = Math.max(1, Math.round(section.getBoundingClientRect().height / innerHeight));
    const heading = headingOf(section);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "section-toggle";
    const title = document.createElement("span");
    title.append(...[...heading.childNodes].filter((node) => !node.classList?.contains("headerlink")));
    const length = document.createElement("span");
    length.className = "section-length";
    length.textContent = `${screens} 屏`;
    button.append(title, length);
    button.addEventListener("click", () => set(section, !isOpen(section)));
    section.addEventListener("beforematch", () => set(section, true));
    heading.prepend(button);
  }

  function addSwitch(foldable) {
    const line = document.createElement("p");
    line.className = "section-switch";
    line.textContent = `后面还有 ${foldable.length} 节，点标题展开。`;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "全部展开";
    button.addEventListener("click", () => {
      foldable.forEach((section) => set(section, true));
      line.remove();
    });
    line.append(button);
    foldable[0].before(line);
  }

  function show(target) {
    const section = target?.closest("section.folded");
    if (!section) return;
    set(section, true);
    target.scrollIntoView();
  }

  document.addEventListener("DOMContentLoaded", () => {
    const sections = [...document.querySelectorAll("article.bd-article > section > section")].filter(headingOf);
    if (!PHONE.matches || document.documentElement.scrollHeight < LONG * innerHeight) return;
    const foldable = sections.slice(1);
    if (!foldable.length) return;
    foldable.forEach(addToggle);
    foldable.forEach((section) => set(section, false));
    addSwitch(foldable);
    const folded = () => foldable.filter((section) => !isOpen(section));

    const wanted = () => (location.hash ? linked(location.hash) : document.querySelector("article .highlighted"));
    const arrive = () => show(wanted());
    arrive();
    let moved = false; // 读者自己动过，就不再替他滚
    for (const kind of ["wheel", "touchstart", "pointerdown", "keydown"]) {
      addEventListener(kind, () => (moved = true), { once: true, passive: true });
    }
    addEventListener("load", async () => {
      setTimeout(arrive, 200); // 从搜索点进来的，搜到的词这时才标好
      await window.MathJax?.startup?.promise;
      settled = true;
      folded().forEach((section) => set(section, false));
      // 图与公式陆续到位，前面各段的高矮还在变：都好了再对准一次
      setTimeout(() => moved || wanted()?.scrollIntoView({ block: location.hash ? "start" : "center" }), 300);
    });
    addEventListener("hashchange", arrive);
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[href^='#']");
      if (link) show(linked(link.hash)); // 网址没有变时，没有 hashchange
    });

    let closed = [];
    addEventListener("beforeprint", () => {
      closed = folded();
      closed.forEach((section) => set(section, true));
    });
    addEventListener("afterprint", () => closed.forEach((section) => set(section, false)));
  });
})();
