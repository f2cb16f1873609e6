"""把建好的网站印成一本 PDF：逐页用 Chromium 打印，合并，配书签，页码连着数，跨页链接改指书内。

版面（边距、页眉、折叠的内容怎样展开）全在 book.css 的打印部分：读者自己按打印，印出来也一样。
"""

import io
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

sys.path.insert(0, str(Path(__file__).resolve().parent))
from site_server import add_site_option, browsing, pages_in_order

from lstm_lib.cli import ChineseParser
from lstm_lib.files import atomic_path

ROOT = Path(__file__).resolve().parent.parent
# 全书连着数的页码：这一章从第几页起
NUMBERING = "@page { @bottom-center { content: counter(page); } } @page :first { counter-set: page %d; }"

# 催促懒加载的图，等公式与字体；嵌入的网页印不出来，换成一行说明。折叠的内容由 book.js 在打印之前展开
PREPARE = """async () => {
  document.documentElement.dataset.theme = "light";
  document.querySelectorAll("iframe").forEach(f => {
    const note = document.createElement("p");
    note.textContent = "（可交互的网络结构图，请在网页上打开）";
    f.replaceWith(note);
  });
  document.querySelectorAll("img[loading]").forEach(i => i.loading = "eager");
  const limit = () => new Promise(done => setTimeout(done, 5000));
  await Promise.all([...document.images].filter(i => i.checkVisibility())
    .map(i => Promise.race([i.decode().catch(() => null), limit()])));
  if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
  await document.fonts.ready;
  return document.querySelector("h1")?.innerText.replace(/[#\\u{f0c1}]/gu, "").trim() || document.title;
}"""


def print_pages(base, names, browser):
    """每页给出（页名，标题，印好的 PDF）。"""
    from pypdf import PdfReader

    context = browser.new_context(viewport={"width": 900, "height": 1200})
    context.add_init_script("localStorage.setItem('mode','light');localStorage.setItem('theme','light')")
    page = context.new_page()
    result, count = [], 0
    for name in names:
        page.goto(f"{base}{name}.html", wait_until="load")
        page.emulate_media(media="print", color_scheme="light")
        title = page.evaluate(PREPARE)
        page.add_style_tag(content=NUMBERING % (count + 1))
        data = page.pdf(format="A4", print_background=True, outline=True, tagged=True)
        printed = PdfReader(io.BytesIO(data))
        count += len(printed.pages)
        result.append((name, title, printed))
        print(f"  {name}：{title}", flush=True)
    context.close()
    return result


def rewrite_links(writer, base, starts):
    """网站内的链接改成跳到书内那一章；别处的链接不动。"""
    from pypdf.generic import ArrayObject, DictionaryObject, NameObject

    for page in writer.pages:
        for annotation in page.get("/Annots", []):
            item = annotation.get_object()
            action = item.get("/A", {})
            uri = str(action.get("/URI", "")) if action else ""
            if not uri.startswith(base):
                continue
            target = unquote(urldefrag(uri[len(base) :]).url).removesuffix(".html") or "index"
            if target in starts:
                destination = ArrayObject(
                    [writer.pages[starts[target]].indirect_reference, NameObject("/Fit")]
                )
                item[NameObject("/A")] = DictionaryObject(
                    {NameObject("/S"): NameObject("/GoTo"), NameObject("/D"): destination}
                )
            else:
                del item[NameObject("/A")]  # 下载之类的链接在书里没有去处


def bind(printed, base, title):
    from pypdf import PdfWriter

    writer, starts = PdfWriter(), {}
    for name, heading, pages in printed:
        starts[name] = len(writer.pages)
        writer.append(pages, outline_item=heading, import_outline=True)
    rewrite_links(writer, base, starts)
    writer.add_metadata(
        {"/Title": title, "/Author": "《LSTM 实现与优化》作者", "/Producer": "Chromium, pypdf"}
    )
    writer.page_mode = "/UseOutlines"
    writer.compress_identical_objects()
    return writer


def main() -> int:
    parser = ChineseParser(prog="python tools/make_pdf.py", description=__doc__)
    add_site_option(parser)
    parser.add_argument(
        "--out", metavar="文件", default=ROOT / "_build" / "pdf" / "lstm.pdf", type=Path,
        help="成品（默认 _build/pdf/lstm.pdf）",
    )  # fmt: skip
    args = parser.parse_args()
    names = [name for name in pages_in_order(ROOT) if (args.site / f"{name}.html").is_file()]
    with browsing(args.site) as (base, browser):
        printed = print_pages(base, names, browser)
        writer = bind(printed, base, "LSTM 实现与优化")
    with atomic_path(args.out) as temporary:
        writer.write(str(temporary))
    print(f"{args.out}：{len(writer.pages)} 页，{args.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
