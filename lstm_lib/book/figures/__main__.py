"""``python -m lstm_lib.book.figures``：重新生成 img/ 里的示意图与网页的颜色表。"""

from lstm_lib.book.figures.catalogue import DRAWINGS, regenerate


def main() -> None:
    changed = regenerate()
    print(
        f"共 {len(DRAWINGS)} 张示意图；"
        + (f"更新了 {'、'.join(changed)}。" if changed else "都与磁盘上的相同。")
    )


if __name__ == "__main__":
    main()
