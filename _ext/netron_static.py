"""页面里的 Netron：``{netron}`` 指令放一个点开才载入的框；建完书把网页与模型抄进站点。

用法（Markdown 单元格里）::

    ```{netron} irm_simplified.onnx
    :title: 化简后的图
    ```
"""

import html

import netron_page
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from sphinx.errors import ExtensionError

FOLDER = "netron"


class Netron(Directive):
    required_arguments = 1
    option_spec = {"title": directives.unchanged, "height": directives.positive_int}  # noqa: RUF012

    def run(self):
        env = self.state.document.settings.env
        model = self.arguments[0]
        if model not in netron_page.MODELS:
            raise self.error(f"没有名为 {model} 的模型；有的是：{'、'.join(netron_page.MODELS)}")
        env.metadata[env.docname]["netron"] = True
        title = html.escape(self.options.get("title", netron_page.MODELS[model]))
        height = self.options.get("height", 520)
        root = "../" * env.docname.count("/")
        source = f"{root}{FOLDER}/index.html?url=models/{model}"
        text = (
            f'<details class="netron-frame"><summary>在 Netron 里打开：{title}'
            f"（<code>{model}</code>）</summary>"
            f'<iframe loading="lazy" src="{source}" title="Netron：{title}" '
            f'style="width: 100%; height: {height}px; border: 1px solid #8888; border-radius: 4px;"></iframe>'
            f'<p class="netron-note">滚轮缩放，拖动平移，点一个节点看它的属性。'
            "框里空白，多半是页面直接从磁盘打开的：在书的文件夹里运行 <code>python -m http.server</code>，"
            "再从浏览器访问它给出的地址。"
            f'<a href="{source}" target="_blank" rel="noopener">在新页面里打开</a></p></details>'
        )
        return [nodes.raw("", text, format="html")]


def copy(app, exception):
    """建完书抄一份；没有哪一页用到就不抄。"""
    if exception or app.builder.format != "html":
        return
    if not any(page.get("netron") for page in app.env.metadata.values()):
        return
    try:
        netron_page.copy_site(f"{app.outdir}/{FOLDER}")
        netron_page.write_models(f"{app.outdir}/{FOLDER}/models")
    except (OSError, ValueError) as error:
        raise ExtensionError(f"Netron 页面没有做成：{error}") from error


def setup(app):
    app.add_directive("netron", Netron)
    app.connect("build-finished", copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
