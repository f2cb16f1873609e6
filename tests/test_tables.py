"""表格：同一列一种写法，数靠右，短的不断行。"""

import re

import numpy as np
import pytest

from lstm_lib.book.tables import Code, Table, aligned, display_width, scientific


def column(*values):
    """一列数写成的文字。"""
    return [texts[0] for texts in Table(["列"], [[value] for value in values])._texts]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.55, 0.478, 1.0018), ["0.550", "0.478", "1.00"]),
        ((14.0, 14.5), ["14.0", "14.5"]),
        ((1.0, 2.0), ["1", "2"]),
        ((529420, 14), ["529,420", "14"]),
        ((np.float32(2.5e-6), 0.0), ["2.50e-06", "0"]),
        ((-0.0482, -3, 0.00482), ["−0.0482", "−3", "4.82e-03"]),
        ((999.6, 37.1), ["1000", "37.1"]),
        (
            ("-0.0 / -0.75", "-3", "5-1.wav", "-0e0", Code("-1")),
            ["0.0 / −0.75", "−3", "5-1.wav", "−0e0", "-1"],
        ),
        ((float("nan"), float("inf"), 1.5), ["nan", "inf", "1.50"]),
    ],
)
def test_numbers_in_a_column_are_written_alike(values, texts):
    assert column(*values) == texts


def test_numeric_columns_are_right_aligned_with_their_header():
    page = Table(["方法", "得分", "说明"], [["甲", "12.3%", "好"], ["乙", "–", "不好"]])._repr_html_()
    heads = re.findall(r"<th scope[^>]*>", page)
    assert ["right" in head for head in heads] == [False, True, False]
    assert [("right" in cell) for cell in re.findall(r"<td[^>]*>", page)] == [False, True, False] * 2


def test_short_cells_do_not_break_and_long_ones_do():
    page = Table(
        ["甲", "乙"], [["很短", "一句写得相当长的说明文字"], [Code("x" * 20), Code("x" * 60)]]
    )._repr_html_()
    assert ["nowrap" in cell for cell in re.findall(r"<td[^>]*>", page)] == [True, False, True, False]


def test_text_is_escaped_and_rows_are_checked():
    table = Table(["<甲>"], [["a<b"]], caption="x & y")
    assert "a&lt;b" in table._repr_html_() and "x &amp; y" in table._repr_html_()
    assert repr(table).splitlines()[0] == "x & y"
    with pytest.raises(ValueError, match="表头有 2 列"):
        Table(["甲", "乙"], [[1]])


def test_text_form_lines_up():
    table = Table(["方法", "SI-SDR (dB)"], [["带噪", "−3.10"], ["a-long-name", "12.00"]], caption="平均")
    caption, head, rule, *rows = repr(table).splitlines()
    assert caption == "平均" and set(rule) == {"-"}
    assert {display_width(line) for line in (head, rule, *rows)} == {len("a-long-name  SI-SDR (dB)")}
    assert rows == ["带噪               −3.10", "a-long-name        12.00"]
    assert aligned([["汉字", "甲"], ["x", ""]]) == ["汉字  甲", "x"], "左边的列按两格补齐，行末不留空格"


def test_equal_first_cells_can_be_merged():
    rows = [[1, "甲", "x"], [1, "乙", "x"], [2, "丙", "x"], [1, "丁", "x"]]
    page = Table(["行", "字", "尾"], rows, group=True)._repr_html_()
    assert re.findall(r'rowspan="(\d+)"', page) == ["2"]
    assert [len(re.findall("<td", line)) for line in page.split("<tr>")[2:]] == [3, 2, 3, 3]
    lines = repr(Table(["行", "字", "尾"], rows, group=True)).splitlines()[2:]
    assert [line.split() for line in lines] == [
        ["1", "甲", "x"],
        ["乙", "x"],
        ["2", "丙", "x"],
        ["1", "丁", "x"],
    ]
    assert "rowspan" not in Table(["行", "字", "尾"], rows)._repr_html_()


def test_an_empty_cell_says_so():
    table = Table(["算子", "化简前", "化简后"], [["If", 2, ""], ["LSTM", 1, 1]], group=True)
    assert "<td" in table._repr_html_() and table._repr_html_().count(">·</td>") == 1
    assert repr(table).splitlines()[2].split() == ["If", "2", "·"]
    assert 'text-align: right; white-space: nowrap">·' in table._repr_html_(), "点要与同列的数对齐"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (3.14e-5, 1, "3.1×10⁻⁵"),
        (9.6e-11, 0, "1×10⁻¹⁰"),
        (-2.0e12, 0, "−2×10¹²"),
        (np.float32(1), 1, "1.0×10⁰"),
    ],
)
def test_scientific_notation_in_sentences(value, digits, text):
    assert scientific(value, digits) == text
