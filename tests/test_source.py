"""页面上印出的源码：去掉文档字符串，别的一字不差。"""

import ast
import functools

import pytest

from lstm_lib.book import source
from lstm_lib.enhance import irm, recipe


class Example:
    """一个类。"""

    size = 3

    @functools.wraps(len)
    def first(self):
        """一行的。"""
        text = """不是文档字符串"""
        return text

    def second(self):
        """多行的。

        第二段。
        """

        @functools.lru_cache
        def inner():
            """里面的。"""
            return 1

        return inner()

    def bare(self):
        """只有它。"""


def test_docstrings_go_and_nothing_else():
    text = source.bare(Example)
    assert "不是文档字符串" in text and "只有它" in text
    assert not any(word in text for word in ("一个类", "一行的", "第二段", "里面的"))
    assert text.count("@functools.") == 2
    scope = {"functools": functools}
    exec(text, scope)
    assert scope["Example"]().first() == "不是文档字符串" and scope["Example"]().second() == 1


@pytest.mark.parametrize("thing", [irm.IRMNetwork, recipe.train_loop, recipe.Carried])
def test_the_printed_code_is_the_running_code(thing):
    shown = source.show(thing)
    assert shown.language == "python"
    printed = ast.parse(shown.data)
    assert not any(
        ast.get_docstring(node)
        for node in ast.walk(printed)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    )


def test_without_source_it_says_so():
    with pytest.raises(TypeError):
        source.show(len)
