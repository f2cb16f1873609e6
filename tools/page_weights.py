"""各页的重量：用 Chromium 打开一页、滚到底（不点播放、不开结构图），经网络传了多少，gzip 之后，单位 kB。

首页超过 400 kB、别的页超过 900 kB 就以 1 退出。首次绘制是在慢手机上（1.6 Mb/s、来回 150 ms、处理器慢四倍）
用空缓存打开，到看得见字要多少毫秒；只打印，不作判断。
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from site_server import add_site_option, browsing, pages_in_order

from lstm_lib.book.tables import aligned
from lstm_lib.cli import ChineseParser

ROOT = Path(__file__).resolve().parent.parent
LANDING, LIMIT = 400_000, 900_000  # 字节
PHONE = {"latency": 150, "downloadThroughput": 200_000, "uploadThroughput": 94_000, "offline": False}
SCROLL = """async () => {
  for (let y = 0; y < document.body.scrollHeight; y += 600) {
    scrollTo(0, y);
    await new Promise(r => setTimeout(r, 20));
  }
}"""
PAINT = "performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)[0]"


@dataclass
class Weight:
    """一页传了多少字节：``first`` 是打开时，``total`` 连同滚到底才取的图；``parts`` 是网址 → 字节。"""

    first: int
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def heaviest(self, count: int = 5) -> list[tuple[str, int]]:
        """最重的几样。"""
        return sorted(self.parts.items(), key=lambda item: -item[1])[:count]


def limit(name: str) -> int:
    """这一页至多多少字节。"""
    return LANDING if name == "index" else LIMIT


def weigh(browser, base: str, name: str) -> Weight:
    """打开一页，滚到底，记下每样东西经网络传了多少（空的缓存）。"""
    page = browser.new_page()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    asked: dict[str, str] = {}
    parts: dict[str, int] = {}
    session.on("Network.requestWillBeSent", lambda e: asked.update({e["requestId"]: e["request"]["url"]}))

    def finished(event):
        address = asked.get(event["requestId"], "")
        if address.startswith(base):
            short = address.removeprefix(base).split("?")[0]
            parts[short] = parts.get(short, 0) + int(event["encodedDataLength"])

    session.on("Network.loadingFinished", finished)
    page.goto(f"{base}{name}.html", wait_until="networkidle", timeout=60_000)
    first = sum(parts.values())
    page.evaluate(SCROLL)
    page.wait_for_load_state("networkidle")
    page.close()
    return Weight(first, parts)


def phone_paint(browser, base: str, name: str) -> float:
    """慢手机上从打开到第一次画出文字（First Contentful Paint）的毫秒数。"""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", PHONE)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    page.goto(f"{base}{name}.html", wait_until="commit", timeout=120_000)
    # 不等整页取完：机器忙时，装成慢手机要好几分钟
    page.wait_for_function(f"() => {PAINT} > 0", timeout=120_000)
    milliseconds = page.evaluate(PAINT)
    page.close()
    return milliseconds


def main() -> int:
    parser = ChineseParser(prog="python tools/page_weights.py", description=__doc__)
    add_site_option(parser)
    args = parser.parse_args()
    heavy, rows = 0, [["页", "HTML", "打开时", "滚到底", "慢手机见字", ""]]
    with browsing(args.site) as (base, browser):
        for name in pages_in_order(ROOT):
            weight, paint = weigh(browser, base, name), phone_paint(browser, base, name)
            over = weight.total > limit(name)
            heavy += over
            sizes = [weight.parts[f"{name}.html"], weight.first, weight.total]
            shown = [*(f"{size / 1000:.0f}" for size in sizes), f"{paint:.0f}"]
            rows.append([name, *shown, "超重" if over else ""])
    print("大小是 gzip 后的 kB，末一列是毫秒")
    print("\n".join(aligned(rows, [False, True, True, True, True, False])))
    return 1 if heavy else 0


if __name__ == "__main__":
    raise SystemExit(main())
