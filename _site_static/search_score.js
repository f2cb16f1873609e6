// 搜索结果的打分：整个查询正好是术语表里的词时，讲它的那一章排最前；查询里含着术语的，那一章靠前；附录排在正文之后。
var Scorer = {
  // 标点与多余的空格不算：“遗忘门”、遗忘门。与 遗忘门 是同一个词
  normalize: (query) =>
    query.toLowerCase().replace(/[\s，。；：、？！“”‘’（）()《》"'?!,.;:]+/g, " ").trim(),
  // 同义的说法换成书里的说法：门的顺序 → 门顺序
  alternatives: (query) =>
    Object.entries(window.SEARCH_SYNONYMS || {})
      .filter(([said, written]) => query.includes(said) && !query.includes(written))
      .map(([said, written]) => query.replace(said, ` ${written} `).trim()),
  score: (result) => {
    const [docname, title, anchor, descr, score, filename] = result;
    const query = Scorer.normalize(new URLSearchParams(window.location.search).get("q") || "");
    const homes = window.SEARCH_HOMES || {};
    if ([query, ...Scorer.alternatives(query)].some((q) => homes[q] === docname)) return score + 300;
    if (/^(chapters\/(glossary|pitfalls|symptoms|recipes|api|status|parity|answers)|genindex)$/.test(docname)) return score - 200;
    let bonus = docname === "chapters/project" ? -8 : 0; // 项目一章各处的词都用，讲它们的是别的章
    for (const [term, home] of Object.entries(homes)) {
      if (home === docname && term.length > 1 && query.includes(term)) bonus += (20 * term.length) / query.length;
    }
    return score + bonus;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
