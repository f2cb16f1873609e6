"""接口页：autodoc 从文档字符串排出的名字去掉长长的模块路径；``{command-options}`` 照眼下的 argparse 列出选项。

- 签名与引用里只留 ``onnx_graph.export`` 这样够用的一截，完整的路径在每一组开头的 import 里。
- ``{command-options} train``：这个子命令的说明、全部选项与例子。选项各有锚点，如 ``#train-speech``。
"""

import argparse
import dataclasses
import re

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

from lstm_lib.cli import make_parser

PACKAGES = "lstm|formats|enhance|engines|native|training|corpus"
# lstm_lib.formats.onnx_graph.export → onnx_graph.export；lstm_lib.lstm.step → step；lstm_lib.LSTM → LSTM
LINE_BREAK = re.compile(r"(?<=[^\x00-\x7f])\n|\n(?=[^\x00-\x7f])")  # 挨着汉字的换行不是空格
OPTION = re.compile(r"((?<![\w-])--?[a-z][\w-]*)")
MODULE_PATH = re.compile(rf"^lstm_lib\.(?:(?:{PACKAGES})\.(?=\w+\.)|lstm\.)?")


def short(path: str) -> str:
    """完整的路径 → 页面上的名字。"""
    return MODULE_PATH.sub("", path)


class Readable(SphinxTransform):
    """签名、引用里的名字取短；文档字符串折了行的接起来，引号与 ``--`` 照写的样子（要赶在弯引号之前）。"""

    default_priority = 740

    def apply(self, **kwargs):
        for signature in self.document.findall(addnodes.desc_signature):
            for prefix in list(signature.findall(addnodes.desc_addname)):
                path = prefix.astext() + signature.next_node(addnodes.desc_name).astext()
                kept = short(path).rpartition(".")[0]
                if kept:
                    prefix[:] = [nodes.Text(f"{kept}.")]
                else:
                    prefix.parent.remove(prefix)
        for literal in self.document.findall(nodes.literal):
            if "py" in literal["classes"]:
                literal[:] = [nodes.Text(short(literal.astext()))]
        for content in self.document.findall(addnodes.desc_content):
            content["support_smartquotes"] = False
            for text in list(content.findall(nodes.Text)):
                if not isinstance(text.parent, nodes.FixedTextElement):
                    plain = "：" if text == " -- " else LINE_BREAK.sub("", text)  # 参数名与说明之间
                    text.parent.replace(text, nodes.Text(plain))


def no_boilerplate(app, what, name, obj, options, lines):
    """namedtuple 自动生成的 ``__new__`` 说明是英文的，也没有说什么。"""
    if lines and lines[0].startswith("Create new instance of "):
        lines.clear()


def plain_defaults(app, what, name, obj, options, signature, result):
    """dataclass 里现造的缺省值，签名里写成造出来的样子：``[]``、``{}``。"""
    if signature and "<factory>" in signature:
        for field in dataclasses.fields(obj):
            if field.default_factory is not dataclasses.MISSING:
                signature = signature.replace("<factory>", repr(field.default_factory()), 1)
    return signature, result


# ---- 命令行 ----


def joined(lines) -> str:
    """手工折了行的一段接成一行：两边都是西文时才隔一个空格。"""
    text = lines[0]
    for line in lines[1:]:
        text += (" " if text[-1:].isascii() and line[:1].isascii() else "") + line
    return text


def paragraph(text: str) -> nodes.paragraph:
    """一段话，其中的选项排成代码；引号照写的样子。"""
    parts = [
        nodes.literal("", part, classes=["option"]) if k % 2 else nodes.Text(part)
        for k, part in enumerate(OPTION.split(text))
    ]
    return nodes.paragraph("", "", *parts, support_smartquotes=False)


def prose(text: str | None) -> list[nodes.Node]:
    """argparse 里的说明：空行分段，缩进的行照原样排。"""
    found, plain, kept = [], [], []

    def finish():
        if plain:
            found.append(paragraph(joined(plain)))
            plain.clear()
        if kept:
            block = "\n".join(kept)
            found.append(nodes.literal_block(block, block, language="text"))
            kept.clear()

    for line in (text or "").strip().splitlines():
        if line.startswith("  "):
            if plain:
                finish()
            kept.append(line[2:])
        else:
            if kept or not line.strip():
                finish()
            if line.strip():
                plain.append(line.strip())
    finish()
    return found


def invocation(action) -> str:
    """一个选项怎样写：``--snr 低 高``、``-q, --quiet``、``输入``。"""
    names = action.metavar if isinstance(action.metavar, tuple) else (action.metavar or "",)
    if not action.option_strings:
        return f"[{names[0]}]" if action.nargs == "?" else names[0]
    values = " ".join(names) if action.nargs != 0 else ""
    if action.nargs in ("+", "*"):
        values += f" [{names[0]} …]"
    return ", ".join(action.option_strings) + (f" {values}" if values else "")


def options(command: str, parser: argparse.ArgumentParser) -> list[nodes.Node]:
    """各组的选项，一组一张定义表；``--help`` 个个都有，不列。"""
    found = []
    for group in parser._action_groups:
        entries = nodes.definition_list(classes=["command-options"])
        for action in group._group_actions:
            if isinstance(action, argparse._HelpAction) or action.help is argparse.SUPPRESS:
                continue
            name = (action.option_strings or [action.dest])[-1].lstrip("-")
            text = parser._get_formatter()._expand_help(action) if action.help else ""
            entries += nodes.definition_list_item(
                "",
                nodes.term("", "", nodes.literal("", invocation(action)), ids=[f"{command}-{name}"]),
                nodes.definition("", paragraph(text)),
            )
        if not entries.children:
            continue
        if group.title not in (parser._optionals.title, parser._positionals.title):
            found.append(nodes.paragraph("", "", nodes.strong("", group.title)))
            found += prose(group.description)
        found.append(entries)
    return found


class CommandOptions(Directive):
    required_arguments = 1

    def run(self):
        command = self.arguments[0]
        commands, missing = make_parser()[1:]
        if command in missing:
            raise self.error(f"command-options：{command} 要用的 {missing[command]} 没有安装")
        if command not in commands:
            raise self.error(f"command-options：没有 {command} 这个命令，有的是 {'、'.join(commands)}")
        parser = commands[command]
        return [*prose(parser.description), *options(command, parser), *prose(parser.epilog)]


def setup(app):
    app.add_directive("command-options", CommandOptions)
    app.add_transform(Readable)
    app.connect("autodoc-process-signature", plain_defaults)
    app.connect("autodoc-process-docstring", no_boilerplate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
