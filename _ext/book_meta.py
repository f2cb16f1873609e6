"""页面的题名与描述、打印时的页眉；仓库与网站的地址。

仓库的地址写在 ``_config.yml`` 的 ``repository.url``，或用环境变量 ``BOOK_REPOSITORY_URL`` 给出；有了它才有 Colab、
Binder 按钮与 book_report 的「报告错误」「编辑这一页」。``BOOK_REPOSITORY_BRANCH`` 只管 Colab 与 Binder 打开哪个分支，
编辑总是改 ``repository.branch``。网站的地址用 ``BOOK_BASE_URL`` 给出，没有给就当它发布在这个仓库的 GitHub Pages 上。
``BOOK_PUBLISH=1``：这一次建的书要放到网上，两个地址缺一个就不建。
"""

import html
import os
import re
from urllib.parse import urlsplit

import sphinx_exercise
import sphinx_exercise.directive
import sphinx_exercise.nodes
from docutils import nodes
from sphinx.errors import ConfigError
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
ADDRESS = re.compile(r"https?://[\w.-]+(?::\d+)?(?:/[\w.~+-]+){2,}", re.ASCII)
DESCRIPTION_LENGTH = 120  # 字；搜索引擎显示的大致长度


def pages_address(repository: str) -> str:
    """GitHub 上的仓库用 GitHub Pages 发布时的地址；别处的仓库给空文字。"""
    match = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+?)(?:\.git)?", repository)
    if not match:
        return ""
    host, name = f"{match[1].lower()}.github.io", match[2]
    return f"https://{host}" if name.lower() == host else f"https://{host}/{name}"


def repository_address(text: str) -> str:
    """核对仓库的地址，去掉末尾的 ``/`` 与 ``.git``；空的照旧。不是网页地址就是 ``ConfigError``。"""
    url = text.strip().rstrip("/").removesuffix(".git")
    if url and not ADDRESS.fullmatch(url):
        raise ConfigError(
            f"仓库的地址 {text!r} 不对：要在浏览器里打得开的，如 https://github.com/名字/仓库。"
            "它取自环境变量 BOOK_REPOSITORY_URL，没有设就取自 _config.yml 的 repository.url"
        )
    return url


def require_addresses(repository: str, site: str) -> None:
    """要放到网上的书：没有仓库的地址，读者发现了错也无处可说；没有网站的地址，卡片与网站地图写不出。"""
    if not repository:
        raise ConfigError(
            "要发布的书（BOOK_PUBLISH=1）没有仓库的地址，页面上就没有「报告错误」与「编辑这一页」，所以不建。"
            "把环境变量 BOOK_REPOSITORY_URL 设成 https://github.com/名字/仓库，或写进 _config.yml 的 repository.url；"
            "只在本机看，就不要设 BOOK_PUBLISH"
        )
    if host_kind(repository) == "":
        raise ConfigError(
            f"要发布的书（BOOK_PUBLISH=1）在 {repository}：本书只会写 GitHub 与 GitLab 的「报告错误」与「编辑这一页」，"
            "别处的写法请添到 _ext/book_report.py"
        )
    if not site:
        raise ConfigError(
            f"要发布的书（BOOK_PUBLISH=1）在 {repository}，看不出网站会在哪里：用环境变量 BOOK_BASE_URL 给出，"
            "如 https://名字.gitlab.io/仓库/"
        )


def host_kind(repository: str) -> str:
    """``github``、``gitlab``（也可以是自己架的），别的给空文字。"""
    host = urlsplit(repository).hostname or ""
    return "github" if host == "github.com" else "gitlab" if "gitlab" in host.split(".") else ""


def configure_repository(app, config):
    options = config.html_theme_options
    url = repository_address(os.environ.get("BOOK_REPOSITORY_URL") or options.get("repository_url") or "")
    source = options.get("repository_branch") or "main"
    branch = os.environ.get("BOOK_REPOSITORY_BRANCH") or source
    base = os.environ.get("BOOK_BASE_URL") or pages_address(url)
    if os.environ.get("BOOK_PUBLISH", "") not in ("", "0"):
        require_addresses(url, base)
    if base:
        config.html_baseurl = base.rstrip("/") + "/"
    for name in ("repository_url", "repository_branch"):
        options.pop(name, None)
    config.book_repository, config.book_source_branch = url, source
    if not url:
        return
    if host_kind(url) != "github":
        LOGGER.info("仓库不在 GitHub：%s，Colab 与 Binder 按钮不出现", url)
        return
    options.update(
        repository_url=url,
        repository_branch=branch,
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
    app.add_config_value("book_repository", "", "html", str)
    app.add_config_value("book_source_branch", "main", "html", str)
    app.connect("config-inited", configure_repository)
    app.connect("html-page-context", add_meta, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
