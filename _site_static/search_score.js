// 搜索结果的打分：整个查询正好是术语表里的词时，讲它的那一章排最前；附录排在正文之后。
var Scorer = {
  score: (result) => {
    const [docname, title, anchor, descr, score, filename] = result;
    const query = (new URLSearchParams(window.location.search).get("q") || "").trim().toLowerCase();
    const home = (window.SEARCH_HOMES || {})[query];
    if (home === docname) return score + 300;
    if (/^(chapters\/(glossary|pitfalls|status|parity|answers)|genindex)$/.test(docname)) return score - 200;
    return score;
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
