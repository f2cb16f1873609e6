"""页面的题名与描述、打印时的页眉；仓库地址配好后才出现的 Colab、Binder 按钮。

地址写在 ``_config.yml`` 的 ``repository.url``，或用环境变量 ``BOOK_REPOSITORY_URL``（分支：
``BOOK_REPOSITORY_BRANCH``）给出；两处都空，页面上就没有这些按钮。网站的地址用 ``BOOK_BASE_URL`` 给出，
没有给就当它发布在这个仓库的 GitHub Pages 上。
"""

import html
import os
import re

import sphinx_exercise
import sphinx_exercise.directive
import sphinx_exercise.nodes
from docutils import nodes
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
DESCRIPTION_LENGTH = 120  # 字；搜索引擎显示的大致长度


def pages_address(repository: str) -> str:
    """GitHub 上的仓库用 GitHub Pages 发布时的地址；别处的仓库给空文字。"""
    match = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+?)(?:\.git)?", repository)
    if not match:
        return ""
    host, name = f"{match[1].lower()}.github.io", match[2]
    return f"https://{host}" if name.lower() == host else f"https://{host}/{name}"


def configure_repository(app, config):
    options = config.html_theme_options
    url = (os.environ.get("BOOK_REPOSITORY_URL") or options.get("repository_url") or "").rstrip("/")
    branch = os.environ.get("BOOK_REPOSITORY_BRANCH") or options.get("repository_branch") or "main"
    if base := os.environ.get("BOOK_BASE_URL") or pages_address(url):
        config.html_baseurl = base.rstrip("/") + "/"
    for name in ("repository_url", "repository_branch"):
        options.pop(name, None)
    if not url:
        return
    if "github.com/" not in url:
        LOGGER.info("仓库不在 GitHub：%s，Colab 与 Binder 按钮不出现", url)
        return
    options.update(
        repository_url=url,
        repository_branch=branch,
        use_repository_button=True,
        launch_buttons={
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        },
    )


def describe(doctree) -> str:
    """正文第一段的文字；太短就接上后面的段落，至多 DESCRIPTION_LENGTH 字。"""
    text = ""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join([text, *paragraph.astext().split()]).strip()
        if len(text) >= DESCRIPTION_LENGTH // 2:
            break
    return text if len(text) <= DESCRIPTION_LENGTH else text[: DESCRIPTION_LENGTH - 1] + "…"


def add_meta(app, pagename, templatename, context, doctree):
    title = app.config.html_title
    if pagename == app.config.root_doc:
        context["docstitle"] = "从训练到落地的可执行教程"
        context["title"] = title
    if doctree is not None:
        text = describe(doctree) or f"《{title}》：{context.get('title', '')}"
    else:
        text = f"《{title}》：{context.get('title', '')}"
    tag = f'<meta name="description" content="{html.escape(text, quote=True)}" />'
    if 'name="description"' not in (context.get("metatags") or ""):
        context["metatags"] = (
            f"{context.get('metatags') or ''}\n    {tag}\n    {running_head(context, title)}"
        )


def running_head(context, book: str) -> str:
    """打印时页眉右边的章号与章名，交给样式表的 ``--print-title``；首页的就是书名，不重复。"""
    name = html.unescape(re.sub("<[^>]+>", "", context.get("title") or ""))
    text = "" if name == book else name.replace("\\", "\\\\").replace('"', '\\"')
    return f'<style>:root {{ --print-title: "{text}"; }}</style>'


def use_book_terms():
    """sphinx-exercise 的中文译名是「练习」「解决方案」，本书用「习题」「解答」。"""
    words = {"Exercise": "习题", "Solution": "解答", "Solution to": "解答："}
    for module in (sphinx_exercise, sphinx_exercise.directive, sphinx_exercise.nodes):
        original = module.translate
        module.translate = lambda text, original=original: words.get(text) or original(text)


def setup(app):
    use_book_terms()
    app.connect("config-inited", configure_repository)
    app.connect("html-page-context", add_meta, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
