"""有了仓库的地址，每一页都有「报告错误」与「编辑这一页」：页眉右上角的一组按钮，页脚的两个链接。

「报告错误」打开一份填好了页名、网址与提交的问题；「编辑这一页」打开这一页的源文件，由代码生成的页（如搜索）没有。
地址由 book_meta 核对。
"""

import html
import os
import subprocess
from urllib.parse import quote, urlencode

from book_meta import host_kind
from book_sharing import plain


def built_commit(folder) -> str:
    """这本书出自哪个提交；改过还没有提交的添上 ``-dirty``。不在 git 仓库里就问持续集成，再没有就说不知道。"""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return (
            os.environ.get("GITHUB_SHA") or os.environ.get("CI_COMMIT_SHA") or "不知道（建书的地方没有 git）"
        )


def report_address(repository: str, title: str, page: str, commit: str) -> str:
    """填好了题目、页面与提交的新问题；不认识的网站给出问题的列表。"""
    kind = host_kind(repository)
    body = (
        f"- 页面：{page}\n- 提交：{commit}\n\n**哪里不对**（抄一句原文，或代码与它的输出）：\n\n\n"
        "**应该是什么**（知道的话）：\n\n\n**系统、浏览器、Python 的版本**（跑代码出的错才要）：\n"
    )
    if kind == "github":
        return f"{repository}/issues/new?{urlencode({'title': f'{title}：', 'body': body}, quote_via=quote)}"
    if kind == "gitlab":
        fields = {"issue[title]": f"{title}：", "issue[description]": body}
        return f"{repository}/-/issues/new?{urlencode(fields, quote_via=quote)}"
    return f"{repository}/issues"


def edit_address(repository: str, branch: str, path: str) -> str:
    """在网页上编辑一个文件的地址；不认识的网站没有。"""
    middle = {"github": "edit", "gitlab": "-/edit"}.get(host_kind(repository))
    return f"{repository}/{middle}/{quote(branch)}/{quote(path)}" if middle else ""


def add_links(app, pagename, templatename, context, doctree):
    repository = app.config.book_repository
    if not repository:
        return
    page = f"{app.config.html_baseurl or ''}{pagename}.html"
    title = plain(context.get("title") or "") or pagename
    links = [
        (
            "报告错误",
            report_address(repository, title, page, app.book_commit),
            "fas fa-circle-exclamation",
            "report",
        )
    ]
    if doctree is not None:
        path = app.env.doc2path(pagename, base=False).replace(os.sep, "/")
        if edit := edit_address(repository, app.config.book_source_branch, path):
            links.append(("编辑这一页", edit, "fas fa-pencil", "edit"))
    buttons = [
        {"type": "link", "url": url, "text": text, "tooltip": text, "icon": icon, "label": f"{label}-button"}
        for text, url, icon, label in [*links, ("源代码仓库", repository, "fas fa-code", "repository")]
    ]
    group = {
        "type": "group",
        "tooltip": "报告错误与编辑",
        "icon": "fas fa-pencil",
        "label": "repository-buttons",
    }
    context.setdefault("header_buttons", []).append(group | {"buttons": buttons})
    anchors = " · ".join(
        f'<a class="book-{label}" href="{html.escape(url, quote=True)}">{text}</a>'
        for text, url, _, label in links
    )
    context["theme_extra_footer"] = f"{anchors} · {context.get('theme_extra_footer') or ''}"


def start(app):
    app.book_commit = built_commit(app.srcdir) if app.config.book_repository else ""


def setup(app):
    app.connect("builder-inited", start)
    app.connect("html-page-context", add_links, priority=940)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
