"""在页面上印出源码：就是正在运行的那一份。"""

import ast
import inspect
import textwrap

from IPython.display import Code

__all__ = ["show"]


def show(*objects) -> Code:
    """印出几个函数或类的源码，不印文档字符串：讲解在正文里，形状与报错在接口页上。

    参数:
        objects: 有 Python 源码的函数或类，照次序印
    返回:
        高亮的一格
    抛出:
        OSError, TypeError: 没有源码，例如用 C 写的
    """
    return Code("\n\n\n".join(map(bare, objects)), language="python")


def bare(thing) -> str:
    """一个函数或类的源码，去掉文档字符串；除了它什么也没有的，留着。"""
    text = textwrap.dedent(inspect.getsource(thing)).rstrip()
    dropped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef)
            and ast.get_docstring(node)
            and len(node.body) > 1
        ):
            first, second = node.body[:2]
            start = min([second.lineno, *(d.lineno for d in getattr(second, "decorator_list", ()))])
            dropped.update(range(first.lineno, start))
    return "\n".join(line for k, line in enumerate(text.splitlines(), start=1) if k not in dropped)
