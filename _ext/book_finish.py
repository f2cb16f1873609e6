"""成品页面的最后一道手续：余下的英文界面文字、内嵌的声音与大图片、懒加载、公式旁的标点、空的输出。

笔记本里的播放器把声音以 data URI 写进页面；这里把它们取出来存成文件，页面因此轻得多，点播放时才去取。
每个播放器也都带着自己的样式与脚本（标了 ``data-once``）；这里每页只留第一份。
"""

import base64
import hashlib
import html
import io
import re
from pathlib import Path

from code_lines import fold_printed
from PIL import Image
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
MEDIA = "_media"
EXTRA_PAGES = ("search", "genindex", "404")  # 不是文稿写成的页
VIEWPORT = re.compile(r'\s*<meta name="viewport"[^>]*>')
KEEP_INLINE = 4096  # 字节；比这更小的图片留在页面里，省一次请求

ATTRIBUTES = {
    "Main": "主导航",
    "Toggle primary sidebar": "展开或收起目录",
    "Toggle secondary sidebar": "展开或收起本页目录",
    "列印成 PDF": "打印为 PDF",
    "Print to PDF": "打印为 PDF",
    "Color mode": "明暗主题",
    "System Settings": "跟随系统",
    "Light": "浅色",
    "Dark": "深色",
    "Page": "本页目录",
    "Link to this heading": "本节的链接",
    "Link to this image": "此图的链接",
    "Link to this table": "此表的链接",
    "Link to this equation": "此式的链接",
    "Link to this code": "此段代码的链接",
    "Link to this term": "此词条的链接",
    "Permalink to this heading": "本节的链接",
    "Link to this definition": "此定义的链接",
    "Previous": "上一页",
    "Next": "下一页",
    "Launch on Colab": "在 Colab 中打开",
    "Launch on Binder": "在 Binder 中打开",
    "Launch interactive content": "在线运行",
    "Download this page": "下载此页",
    "Download notebook file": "下载笔记本",
    "Download source file": "下载源文件",
    "Site navigation": "全站导航",
    "Section Navigation": "章节导航",
    "On this page": "本页目录",
    "Breadcrumb": "所在位置",
    "Home": "首页",
    "Search": "搜索",
    "logo": "书的标志",
    "Logo image": "书的标志",
    "System settings": "跟随系统",
}
TEXTS = {
    "© Copyright": "© 版权所有",
    "© 版权所有 2026.": "© 2026 《LSTM 实现与优化》。",
    ">Colab<": ">在 Colab 中打开<",
    ">Binder<": ">在 Binder 中打开<",
}
# 主题的提示气泡：触摸屏上点过按钮它就留着不走；浏览器自己的 title 就够了
TOOLTIP = [
    (re.compile(r'\s+data-bs-placement="[^"]*"\s+data-bs-toggle="tooltip"'), ""),
    (re.compile(r'\bdata-bs-title="'), 'title="'),
]
# 读屏软件听到的名字要与看到的文字一致；参考文献表的条目不是列表项
ACCESSIBILITY = [
    (re.compile(r'<summary aria-label="[^"]*"'), "<summary"),
    (
        re.compile(r'(<button class="[^"]*search-button-field[^"]*"[^>]*?) (?:title|aria-label)="[^"]*"'),
        r"\1",
    ),
    (re.compile(r'(<(?:i|svg) class="[^"]*theme-switch[^"]*"[^>]*?) title="[^"]*"'), r"\1"),
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
]
MATH = re.compile(
    r'(?P<before>[（“《]?)(?P<math><span class="math notranslate nohighlight">\\\(.*?\\\)</span>)'
    r"(?P<after>[，。；：、）！？”》]*)",
    re.S,
)
KEEP = '<span class="keep">'
# 习题与解答的标题：空格不带下划线，括号用全角
EXERCISES = [
    (re.compile(r'(<p class="admonition-title">解答：<a [^>]*>) +'), r"\1"),
    (
        re.compile(
            r'(<p class="admonition-title"><span class="caption-number">习题 [\d.]+) ?</span> ?\((.*?)\)</p>'
        ),
        r"\1</span>（\2）</p>",
    ),
    (re.compile(r'(<p class="admonition-title">解答：<a [^>]*>习题 [\d.]+) \((.*?)\)</a>'), r"\1（\2）</a>"),
]
GATE_ORDER = re.compile(r"\b([ifgocIFGO]) ([ifgocIFGO]) ([ifgocIFGO]) ([ifgocIFGO])\b")  # i f g o 不拆到两行
# 搜索用的三个脚本（索引有几百 kB）只有搜索页要；别的页上有它们，点进来的词就不会高亮
SEARCH_SCRIPTS = re.compile(
    r'\s*<script src="[^"]*(?:_static/searchtools|_static/language_data|searchindex)\.js[^"]*"[^>]*></script>'
)
# 进度条做完后留下的空壳
EMPTY_OUTPUT = re.compile(r'<div class="output text_html">\s*</div>')
EMPTY_CELL = re.compile(r'<div class="cell_output docutils container">\s*</div>')
DATA_URI = re.compile(r"data:(audio|image)/([a-z0-9.+-]+);base64,([A-Za-z0-9+/=\s]+)")
ONCE = re.compile(r"<(style|script) data-once>.*?</\1>", re.S)
SUFFIX = {
    "png": "webp",
    "mpeg": "mp3",
    "x-wav": "wav",
    "wave": "wav",
    "svg+xml": "svg",
    "jpeg": "jpg",
    "x-flac": "flac",
}
ATTRIBUTE = re.compile(r'\b(title|aria-label|placeholder|alt|data-bs-title|data-tooltip)="([^"<>]*)"')


def smaller(png: bytes) -> bytes:
    """同一张图存成无损的 WebP，每个像素都不变，轻三成上下。"""
    target = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(
            target, "WEBP", lossless=True, quality=100, method=5, exact=True
        )  # 6 要慢十几倍，省不到百分之一
    return target.getvalue()


def extract_media(page: str, folder: Path, prefix: str) -> str:
    """把 data URI 存成 ``folder`` 下以内容命名的文件，页面里换成相对地址。"""

    def save(match):
        kind, subtype, payload = match.groups()
        data = base64.b64decode(re.sub(r"\s", "", payload))
        if kind == "image" and len(data) < KEEP_INLINE:
            return match.group(0)
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{SUFFIX.get(subtype, subtype)}"
        folder.mkdir(exist_ok=True)
        target = folder / name
        if not target.exists():
            target.write_bytes(smaller(data) if subtype == "png" else data)
        if subtype == "mpeg":  # 从 file:// 打开的页面取不到 MP3 的内容，脚本却送得来
            text = f'lstmPlayers.sounds["{target.stem}"]="{base64.b64encode(data).decode()}";\n'
            target.with_suffix(".js").write_text(text, encoding="utf-8")
        return f"{prefix}{MEDIA}/{name}"

    return DATA_URI.sub(save, page)


def keep_first(page: str) -> str:
    """标了 ``data-once`` 的样式与脚本，一模一样的只留第一份。"""
    seen = set()

    def patch(match):
        again = match.group(0) in seen
        seen.add(match.group(0))
        return "" if again else match.group(0)

    return ONCE.sub(patch, page)


def add_attribute(page: str, tag: str, name: str, value: str) -> str:
    """给没有 ``name`` 属性的每个 ``<tag …>`` 添上它；已有的不动。"""

    def patch(match):
        opening = match.group(0)
        if re.search(rf"\s{name}(=|\s|>|/)", opening):
            return opening
        return f'<{tag} {name}="{value}"{opening[len(tag) + 1 :]}'

    return re.sub(rf"<{tag}\b[^>]*>", patch, page)


def keep_punctuation(page: str) -> str:
    """行内公式与紧挨着的标点不拆到两行：公式是 inline-block，浏览器不管它前后的避头尾。"""

    def wrap(match):
        alone = not (match["before"] or match["after"])
        if alone or match.string.endswith(KEEP, 0, match.start()):
            return match.group(0)
        return f"{KEEP}{match.group(0)}</span>"

    return MATH.sub(wrap, page)


def chinese_attribute(match):
    name, text = match.groups()
    return f'{name}="{html.escape(ATTRIBUTES.get(html.unescape(text), html.unescape(text)), quote=True)}"'


def finish_page(page: str, folder: Path, prefix: str) -> str:
    """一页的全部手续；再做一遍结果不变。"""
    head, start, body = page.partition("<body")
    first = VIEWPORT.search(head)
    if first:  # 主题、Sphinx 与模板各写了一个
        head = head[: first.end()] + VIEWPORT.sub("", head[first.end() :])
    body = fold_printed(keep_first(extract_media(body, folder, prefix)))
    scripts = re.split(r"(<script\b.*?</script>|<pre\b.*?</pre>|<svg\b.*?</svg>)", body, flags=re.S)
    in_article = False  # 正文里的图才懒加载；标志之类的一开始就看得见
    for index, part in enumerate(scripts):
        in_article = in_article or "<article" in part
        if index % 2 == 0:
            part = ATTRIBUTE.sub(chinese_attribute, part)
            part = keep_punctuation(GATE_ORDER.sub("\\1\u00a0\\2\u00a0\\3\u00a0\\4", part))
            part = EMPTY_CELL.sub("", EMPTY_OUTPUT.sub("", part))
            for pattern, replacement in [*TOOLTIP, *EXERCISES]:
                part = pattern.sub(replacement, part)
            for pattern, replacement in ACCESSIBILITY:
                part = pattern.sub(replacement, pattern.sub(replacement, part))
            for english, chinese in TEXTS.items():
                part = part.replace(english, chinese)
            if in_article:
                part = add_attribute(part, "img", "loading", "lazy")
            part = add_attribute(part, "iframe", "loading", "lazy")
            scripts[index] = re.sub(
                r'(<audio\b[^>]*?)\spreload="(?:auto|metadata|)"', r'\1 preload="none"', part
            )
            scripts[index] = add_attribute(scripts[index], "audio", "preload", "none")
    return head + start + "".join(scripts)


def finish_site(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    pages = {site / f"{name}.html" for name in [*app.env.found_docs, *EXTRA_PAGES]}
    for path in sorted(pages):
        if not path.is_file():
            continue
        page = path.read_text(encoding="utf-8")
        if path.name != "search.html":
            page = SEARCH_SCRIPTS.sub("", page)
        prefix = "../" * (len(path.relative_to(site).parts) - 1)
        path.write_text(finish_page(page, site / MEDIA, prefix), encoding="utf-8")


def make_static_folder(app):
    """建书中途失败时，主题会把标志抄成名叫 _static 的文件，下次建书便无从下手；先把目录建好。"""
    if app.builder.format == "html":
        folder = Path(app.outdir) / "_static"
        if folder.is_file():
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)


def setup(app):
    app.connect("builder-inited", make_static_folder)
    app.connect("build-finished", finish_site, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
