"""从 Noto Sans CJK SC 裁出插图用的字体：GB 2312 全部汉字与符号，加上西文、希腊字母、箭头与数学符号。

结果写到 lstm_lib/book/fonts/LSTMBookSans-Regular.otf。改名是为了不与读者机器上装的同名字体混淆：插图的字形
必须逐字节可重现。许可证是 SIL OFL 1.1，见同一目录的 OFL.txt。
"""

import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTCollection, TTLibError

from lstm_lib.cli import ChineseParser

SOURCE = Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc")
TARGET = Path(__file__).resolve().parents[1] / "lstm_lib" / "book" / "fonts" / "LSTMBookSans-Regular.otf"
FAMILY = "LSTM Book Sans"


def gb2312() -> set[int]:
    """GB 2312 的全部码位（682 个符号与 6763 个汉字）。"""
    found = set()
    for high in range(0xA1, 0xF8):
        for low in range(0xA1, 0xFF):
            try:
                found.add(ord(bytes([high, low]).decode("gb2312")))
            except UnicodeDecodeError:
                pass
    return found


def characters() -> set[int]:
    extra = "㎡ℓ℃‰→←↑↓↔⇒⇐⇔↦−×÷±≈≠≤≥∞∑∏√∂∇∈∉⊂∪∩⊙⊕⊗·…—–‘’“”•●○■□▲△▼▽◆◇★☆✓✗①②③④⑤⑥⑦⑧⑨⑩嗯掩蔽噪梅尔啰嗦橹"
    ranges = [
        (0x20, 0x7F),
        (0xA0, 0x180),
        (0x370, 0x400),
        (0x2010, 0x2030),
        (0x2070, 0x20A0),
        (0xFF00, 0xFFF0),
    ]
    return gb2312() | set(map(ord, extra)) | {code for start, end in ranges for code in range(start, end)}


def rename(font) -> None:
    for record in font["name"].names:
        if record.nameID in (1, 3, 4, 16):
            record.string = FAMILY
        elif record.nameID == 6:
            record.string = "LSTMBookSans-Regular"
    top = font["CFF "].cff
    top.fontNames = ["LSTMBookSans-Regular"]
    top[0].FullName = top[0].FamilyName = FAMILY


def main() -> int:
    parser = ChineseParser(prog="python tools/subset_font.py", description=__doc__)
    parser.add_argument(
        "source", metavar="原字体", nargs="?", type=Path, default=SOURCE,
        help=f"NotoSansCJK-Regular.ttc，Debian 的 fonts-noto-cjk 提供（默认 {SOURCE}）",
    )  # fmt: skip
    source = parser.parse_args().source
    try:
        fonts = TTCollection(source).fonts
        font = next(f for f in fonts if f["name"].getDebugName(1) == "Noto Sans CJK SC")
    except (OSError, TTLibError, StopIteration):
        print(f"错误：{source} 不是 Noto Sans CJK 的字体集；Debian 上安装 fonts-noto-cjk", file=sys.stderr)
        return 1
    options = subset.Options(
        hinting=False, layout_features=["kern"], name_languages=[0x409], notdef_outline=True
    )
    options.drop_tables += ["vhea", "vmtx", "VORG", "BASE"]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=characters())
    subsetter.subset(font)
    rename(font)
    font["head"].modified = font["head"].created  # 时间戳固定，重做得到同样的字节
    font.recalcTimestamp = False
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    font.save(TARGET)
    print(f"{TARGET.name}：{len(font.getBestCmap())} 个字符，{TARGET.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
