// 搜索页用：把查询切成与索引相同的词，再把搜得的结果排好。由 zh_search.py 放进 language_data.js。
// 正则与 zh_search.py 的 TOKEN 相同；没有用后行断言，旧的浏览器也认得
const SEARCH_TOKEN =
  /([一-鿿㐀-䶿〇]+)|(--?[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*)|((?:\d{1,3}(?:[,_]\d{3})+|\d+(?:\.\d+)?[eE][+-]?\d+|\d+(?:\.\d+)+)(?![A-Za-z0-9_]))|[A-Za-z0-9_]+/g;
// 索引里有没有这个词；没有整个的，两个字母以上、有别的词含着它的也算
function searchKnows(term, part = term.length > 2) {
  if (typeof Search === "undefined" || !Search._index) return true;
  const maps = [Search._index.terms, Search._index.titleterms];
  return maps.some((map) => Object.hasOwn(map, term) || (part && Object.keys(map).some((word) => word.includes(term))));
}
// 一个词（没有空格的一段）→ {terms: 索引里的词, shown: 要标亮的}
function splitWord(word) {
  const terms = [], shown = [];
  for (const match of word.matchAll(SEARCH_TOKEN)) {
    const [token, han, option, number] = match;
    if (option && /[A-Za-z0-9_-]/.test(word[match.index - 1] || "")) {
      const inner = splitWord(token.replace(/-/g, " "));  // SI-SDR 里的不是选项
      terms.push(...inner.terms);
      shown.push(...inner.shown);
      continue;
    }
    const whole = number ? token.toLowerCase().replace(/[,_]/g, "") : token.toLowerCase();
    if (han) {
      shown.push(han);
      if (han.length === 1) terms.push(han);
      else for (let i = 0; i + 1 < han.length; i++) terms.push(han.slice(i, i + 2));
    } else if (searchKnows(whole)) {
      shown.push(token.toLowerCase());
      terms.push(whole);
    } else {
      // 索引里没有整个的：拆开再试，字母与数字之间也断开（16kHz）
      const parts = token.toLowerCase().match(option || number ? /[a-z0-9_]+/g : /\d+|[a-z]+/g) || [];
      const pieces = option || number || /\d/.test(whole) ? parts : [whole];
      shown.push(...pieces);
      terms.push(...pieces);
    }
  }
  return { terms, shown };
}
// 查询 → {terms, excluded: 一组组不要的词, shown}
function parseSearch(query) {
  const found = { terms: [], excluded: [], shown: [] };
  // 输入法给的全角字符；自动更正把 -- 变成的破折号
  const words = query.normalize("NFKC").replace(/(^|\s)[—–]+(?=[A-Za-z])/g, "$1--").replace(/−/g, "-").trim().split(/\s+/);
  const minus = (word) => /^-[^-\d]/.test(word);
  const some = words.some((word) => word && !minus(word));
  for (const word of words) {
    // 词首的减号是「不要这个词」；--streaming、-W、-O2、-march=native 与书里有的选项不是，别的词一个也没有时也不是
    const option = /^-(?:[A-Za-z]\d*$|\w+=)/.test(word) || searchKnows(word.toLowerCase(), false);
    if (minus(word) && !option && (some || /[^\x00-\x7f]/.test(word))) {
      found.excluded.push(splitWord(word.slice(1)).terms);
    } else {
      const { terms, shown } = splitWord(word);
      found.terms.push(...terms);
      found.shown.push(...shown);
    }
  }
  return found;
}
// LaTeX 的源码 → 摘要里读得下去的一行字：认得的换成字，别的留名字，排版用的去掉
const MATH_WORDS = {
  alpha: "α", beta: "β", gamma: "γ", delta: "δ", Delta: "Δ", epsilon: "ε", varepsilon: "ε", theta: "θ", lambda: "λ", mu: "μ",
  pi: "π", rho: "ρ", sigma: "σ", Sigma: "Σ", tau: "τ", phi: "φ", chi: "χ", omega: "ω", eta: "η", nu: "ν", ell: "ℓ",
  odot: "⊙", times: "×", cdot: "·", cdots: "…", dots: "…", ldots: "…", pm: "±", mp: "∓", approx: "≈", sim: "∼", equiv: "≡", neq: "≠", ne: "≠",
  le: "≤", leq: "≤", ge: "≥", geq: "≥", ll: "≪", gg: "≫", in: "∈", partial: "∂", prod: "∏", sum: "∑", int: "∫", sqrt: "√", infty: "∞",
  to: "→", rightarrow: "→", leftarrow: "←", mapsto: "↦", Rightarrow: "⇒", top: "ᵀ", mid: "|", lvert: "|", rvert: "|", lVert: "‖", rVert: "‖",
  lfloor: "⌊", rfloor: "⌋", lceil: "⌈", rceil: "⌉", quad: " ", qquad: " ", vdots: "…", prime: "′", circ: "∘", oplus: "⊕", forall: "∀",
};
const MATH_STYLE = /^(?:text|math|operatorname|left|right|big|bm|bold|under|over|hat|widehat|bar|tilde|vec|display|limits|no|tag|label|color)/i;
function plainMath(source) {
  return source
    .replace(/\\[()[\]]/g, "")
    .replace(/\\(?:begin|end)\{[^}]*\}(?:\{[^}]*\})?/g, " ")
    .replace(/\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}/g, "{}$1/$2")
    .replace(/\\[dt]?frac\s*(\w)\s*(\w)/g, "{}$1/$2")
    .replace(/\\\\|\\[,;:! ]|[&~]/g, " ")
    .replace(/\\([a-zA-Z]+)\s*/g, (all, name) => MATH_WORDS[name] ?? (MATH_STYLE.test(name) ? "" : `${name} `))
    .replace(/\\|[{}]/g, "");
}
function splitQuery(query) {
  return parseSearch(query).terms;
}
if (typeof Search !== "undefined") {
  // 索引是普通的对象：不断开原型，搜 constructor 就找到了语言自带的函数，页面停在「搜索中」
  const setIndex = Search.setIndex;
  Search.setIndex = (index) => {
    const { hasOwnProperty } = Object.prototype;  // searchtools.js 要用；查询都是小写，撞不上它
    for (const map of [index.terms, index.titleterms]) Object.setPrototypeOf(map, { __proto__: null, hasOwnProperty });
    setIndex(index);
  };
  const searchStem = (term) => (/^[a-z]+$/.test(term) ? new Stemmer().stemWord(term) : term);
  // 原来的写法不搜数字，还把每个词首的减号都当作「不要」；摘要与高亮用整段中文，而不是切碎的两字
  Search._parseQuery = (query) => {
    const { terms, excluded, shown } = parseSearch(query);
    const useful = terms.filter((term) => !stopwords.includes(term));
    const wanted = new Set((useful.length ? useful : terms).map(searchStem));
    const lit = new Set(shown.filter((word) => word.length > 1 && (!useful.length || !stopwords.includes(word))));
    localStorage.setItem("sphinx_highlight_terms", [...lit].join(" "));
    return [query, wanted, excluded.map((group) => group.map(searchStem)), lit, new Set(terms)];
  };
  // 原来的写法把不足三个字母的词当作可有可无，而中文的词全是两个字；
  // 这里逐词去找：各词都有的页在先，一页都没有时，有其中六成的也算
  const search = Search.performTermsSearch;
  Search.performTermsSearch = (terms, excluded) => {
    const wanted = [...terms].filter((term) => term.length > 1 || /[^\x00-\x7f]/.test(term));
    const pages = new Map();
    for (const term of wanted) {
      for (const row of search(new Set([term]), new Set())) {
        const page = pages.get(row[0]) || { row, score: 0, hits: 0 };
        page.score += row[4];
        page.hits += 1;
        pages.set(row[0], page);
      }
    }
    const { docnames, terms: words, titleterms } = Search._index;
    const has = (name, term) =>
      [words, titleterms].some((map) => Object.hasOwn(map, term) && [map[term]].flat().some((k) => docnames[k] === name));
    for (const name of [...pages.keys()])
      if (excluded.some((group) => group.length && group.every((term) => has(name, term)))) pages.delete(name);
    const most = Math.max(0, ...[...pages.values()].map((page) => page.hits));
    const least = most === wanted.length ? most : Math.max(1, Math.floor(wanted.length * 0.6));
    return [...pages.values()]
      .filter((page) => page.hits >= least)
      .map((page) => [...page.row.slice(0, 4), page.score / wanted.length, page.row[5]]);
  };
  const perform = Search._performSearch;
  Search._performSearch = (query, terms, excluded, lit, objects) => {
    const plain = Scorer.normalize(query), others = [...new Set(Scorer.alternatives(plain))];
    const found = new Map();
    const add = (rows) => {
      for (const row of rows) {
        const key = row[0] + row[2];
        if (!found.has(key) || found.get(key)[4] < row[4]) found.set(key, row);
      }
    };
    add(perform(query, terms, excluded, lit, objects));
    for (const other of others) {
      const [said, words, unwanted, shown, names] = Search._parseQuery(other);
      add(perform(said, words, unwanted, shown, names));
      for (const word of words) terms.add(word); // 摘要与小节也按书里的说法找
      for (const word of shown) lit.add(word);
    }
    localStorage.setItem("sphinx_highlight_terms", [...lit].join(" "));
    // 查询正好是术语表里的词，而正文里没有原样出现时，也给出讲它的那一章
    const home = [plain, ...others].map((q) => (window.SEARCH_HOMES || {})[q]).find(Boolean);
    const { docnames, titles, filenames } = Search._index, k = docnames.indexOf(home);
    if (k >= 0 && ![...found.values()].some((row) => row[0] === home)) {
      found.set(home, [home, titles[k], "", null, 300, filenames[k]]);
    }
    showCards([plain, ...others]);
    return [...found.values()].sort(_orderResultsByScoreThenName);
  };
  // 坑与术语的卡片排在各页之前：名字对得上的在先，其次是话里有全部的词的
  function showCards(queries) {
    const rank = (card) => {
      const names = card.names.map((name) => name.toLowerCase());
      const all = [...names, card.text.toLowerCase()].join(" ");
      return Math.max(
        ...queries.map((query) => {
          const words = splitQuery(query).filter((word) => word.length > 1);
          if (names.includes(query)) return 100;
          if (query.length > 1 && names.some((name) => name.includes(query))) return 70;
          const inside = names.filter((name) => name.length > 1 && query.includes(name)).map((name) => name.length);
          if (inside.length) return 30 + (30 * Math.max(...inside)) / query.length;
          return words.length && words.every((word) => all.includes(word)) ? 20 : 0;
        }),
      );
    };
    const ranked = (window.SEARCH_CARDS || []).map((card) => [rank(card), card]).filter(([score]) => score > 0);
    ranked.sort((a, b) => b[0] - a[0]);
    const best = ["术语", "坑"].flatMap((kind) => ranked.filter(([, card]) => card.kind === kind).slice(0, 2));
    best.sort((a, b) => b[0] - a[0]);
    if (!best.length) return;
    const list = document.createElement("ul");
    list.className = "search-cards";
    for (const [, card] of best) {
      const item = list.appendChild(document.createElement("li"));
      const kind = item.appendChild(document.createElement("span"));
      kind.className = "search-card-kind";
      kind.textContent = card.kind;
      const link = item.appendChild(document.createElement("a"));
      link.href = card.href;
      link.textContent = card.names[0];
      item.appendChild(document.createElement("p")).textContent = card.text;
    }
    Search.output.before(list);
  }
  // 摘要之后给出这一页里最对得上的几节，直接跳到那里
  const summarize = Search.makeSearchSummary;
  Search.makeSearchSummary = (html, keywords, anchor) => {
    const summary = summarize(html, keywords, anchor);
    const name = html.match(/DOCUMENTATION_OPTIONS\.pagename = '([^']+)'/)?.[1];
    if (!summary || anchor || !name) return summary;
    const box = document.createElement("div");
    box.append(summary);
    const page = new DOMParser().parseFromString(html, "text/html");
    const words = [...keywords].filter((word) => word.length > 1 || /[^\x00-\x7f]/.test(word));
    const hits = [...page.querySelectorAll("article section[id]")].flatMap((section) => {
      const heading = section.querySelector(":scope > :is(h2, h3, h4)");
      if (!heading) return [];
      heading.querySelectorAll(".headerlink").forEach((link) => link.remove());
      const own = section.cloneNode(true);
      own.querySelectorAll("section").forEach((inner) => inner.remove());
      const text = own.textContent.toLowerCase(), title = heading.textContent.toLowerCase();
      const count = (where) => words.filter((word) => where.includes(word)).length;
      const times = words.reduce((sum, word) => sum + text.split(word).length - 1, 0);
      return [{ id: section.id, title: heading.textContent.trim(), hits: count(text), named: count(title), times }];
    });
    const most = Math.max(0, ...hits.map((hit) => hit.hits));
    const best = hits.filter((hit) => hit.hits === most && most > 0);
    best.sort((a, b) => b.named - a.named || b.times - a.times);
    if (best.length) {
      const list = box.appendChild(document.createElement("p"));
      list.className = "section-hits";
      for (const hit of best.slice(0, 3)) {
        const link = list.appendChild(document.createElement("a"));
        link.href = `${name}.html#${hit.id}`;
        link.textContent = hit.title;
      }
    }
    return box;
  };
  // 摘要只取正文，不要页首的按钮与打印用的目录
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    page.querySelectorAll(".headerlink, script, style, mjx-container, .toggle-button").forEach((n) => n.remove());
    page.querySelectorAll(".math").forEach((n) => (n.textContent = plainMath(n.textContent))); // 公式还没有排
    const body = page.querySelector("article") || page.body;
    return ((anchor && body.querySelector(anchor)) || body).textContent.replace(/\s+/g, " ");
  };
  Documentation.TRANSLATIONS[
    "Your search did not match any documents. Please make sure that all words are spelled correctly and that you've selected enough categories."
  ] = "没有找到。换个短一点的词试试，或者到附录的术语表里查。";
}
