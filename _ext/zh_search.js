// 搜索页用：把查询切成与索引相同的词，再把搜得的结果排好。由 zh_search.py 放进 language_data.js。
function splitQuery(query) {
  const terms = [];
  for (const word of query.split(/\s+/)) {
    const minus = word.startsWith("-") ? "-" : "";  // 只有词首的减号才是「不要这个词」，SI-SDR 里的不是
    for (const run of word.match(/[一-鿿㐀-䶿〇]+|[a-zA-Z0-9_]+/g) || []) {
      if (!/[一-鿿㐀-䶿〇]/.test(run)) terms.push(minus + run);
      else if (run.length === 1) terms.push(run);
      else for (let i = 0; i + 1 < run.length; i++) terms.push(run.slice(i, i + 2));
    }
  }
  return terms;
}
if (typeof Search !== "undefined") {
  // 摘要与高亮用整段中文，而不是切碎的两字
  const parse = Search._parseQuery;
  Search._parseQuery = (query) => {
    const parsed = parse(query);
    const whole = query.toLowerCase().match(/[一-鿿㐀-䶿〇]+|[a-z0-9_]+/g) || [];
    parsed[3] = new Set(whole.filter((word) => word.length > 1));
    localStorage.setItem("sphinx_highlight_terms", [...parsed[3]].join(" "));
    return parsed;
  };
  // 原来的写法把不足三个字母的词当作可有可无，而中文的词全是两个字；
  // 这里逐词去找：各词都有的页在先，一页都没有时，有其中六成的也算
  const search = Search.performTermsSearch;
  Search.performTermsSearch = (terms, excluded) => {
    const wanted = [...terms].filter((term) => term.length > 1 || /[^\x00-\x7f]/.test(term));
    const pages = new Map();
    for (const term of wanted) {
      for (const row of search(new Set([term]), excluded)) {
        const page = pages.get(row[0]) || { row, score: 0, hits: 0 };
        page.score += row[4];
        page.hits += 1;
        pages.set(row[0], page);
      }
    }
    const most = Math.max(0, ...[...pages.values()].map((page) => page.hits));
    const least = most === wanted.length ? most : Math.max(1, Math.floor(wanted.length * 0.6));
    return [...pages.values()]
      .filter((page) => page.hits >= least)
      .map((page) => [...page.row.slice(0, 4), page.score / wanted.length, page.row[5]]);
  };
  // 查询正好是术语表里的词，而正文里没有原样出现时，也给出讲它的那一章
  const perform = Search._performSearch;
  Search._performSearch = (query, ...rest) => {
    const results = perform(query, ...rest);
    const home = (window.SEARCH_HOMES || {})[Scorer.normalize(query)];
    if (!home || results.some((row) => row[0] === home)) return results;
    const { docnames, titles, filenames } = Search._index;
    const k = docnames.indexOf(home);
    return k < 0 ? results : [...results, [home, titles[k], "", null, 300, filenames[k]]];
  };
  // 摘要只取正文，不要页首的按钮与打印用的目录
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    page.querySelectorAll(".headerlink, script, style, mjx-container, .toggle-button").forEach((n) => n.remove());
    const body = page.querySelector("article") || page.body;
    return ((anchor && body.querySelector(anchor)) || body).textContent.replace(/\s+/g, " ");
  };
  Documentation.TRANSLATIONS[
    "Your search did not match any documents. Please make sure that all words are spelled correctly and that you've selected enough categories."
  ] = "没有找到。换个短一点的词试试，或者到附录的术语表里查。";
}
