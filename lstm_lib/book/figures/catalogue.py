"""img/ 里每一张示意图：文件名、画它的函数、给读屏软件的说明。"""

from pathlib import Path

from lstm_lib.book.figures import cell, logo, matrices, palette, pipelines, roadmap, svg
from lstm_lib.book.figures.style import style_context
from lstm_lib.files import atomic_path

ROOT = Path(__file__).resolve().parents[3]

DRAWINGS = {
    "lstm_chain": (
        cell.chain,
        "三个时刻的 LSTM 单元连成链：细胞状态 c 从上方、隐藏状态 h 从下方传给下一时刻。",
    ),
    "lstm_cell": (
        lambda: cell.cell_part("all"),
        "一个 LSTM 单元的全貌：遗忘门、输入门、候选值、输出门与细胞状态。",
    ),
    "lstm_state": (lambda: cell.cell_part("state"), "只点亮细胞状态：它横贯单元上方，先乘一次，再加一次。"),
    "gate": (cell.gate, "一个门：sigmoid 层给出 0 到 1 的系数，与经过的信息逐元素相乘。"),
    "lstm_forget": (
        lambda: cell.cell_part("forget"),
        "点亮遗忘门：由上一时刻的 h 与当前的 x 算出 f，乘到细胞状态上。",
    ),
    "lstm_input": (lambda: cell.cell_part("input"), "点亮输入门与候选值：i 与 g 相乘，得到要写入的内容。"),
    "lstm_update": (lambda: cell.cell_part("update"), "点亮细胞状态的更新：旧状态乘以 f，再加上 i 乘 g。"),
    "lstm_output": (lambda: cell.cell_part("output"), "点亮输出门：o 乘以 tanh(c)，得到隐藏状态 h。"),
    "lstm_backward": (
        cell.backward,
        "一步的计算图：黑色是前向，红色的梯度逆着每一条线走回去，c 的两个去处、h 的两个去处在分叉处相加。",
    ),
    "weight_blocks": (
        matrices.weight_blocks,
        "weight_ih_l0、weight_hh_l0 与两个偏置各由四块叠成，次序为 i、f、g、o，每块 257 行。",
    ),
    "gate_orders": (matrices.gate_orders, "门的次序：PyTorch 是 i f g o，ONNX 是 i o f c，ncnn 是 I F O G。"),
    "packed_layout": (
        matrices.packed_layout,
        "打包布局：每块取四个门里同样的几行，内存里按列存放，一列里依次是四个门。",
    ),
    "irm_pipeline": (
        pipelines.irm_pipeline,
        "IRM 语音增强：STFT 得到复数谱，幅度谱经 LSTM、Linear、sigmoid 成为掩蔽，乘回复数谱后由 iSTFT 还原。",
    ),
    "overlap_add": (
        pipelines.overlap_add,
        "流式推理的时间线：两块拼成一帧，相邻两帧各取一半相加得到一块输出，总共晚 512 点即 32 毫秒。",
    ),
    "book_map": (roadmap.book_map, roadmap.book_map_alt),  # 说明也读 _toc.yml
    "ladder": (
        roadmap.ladder,
        "逐级对照：PyTorch、ONNX、化简的 ONNX、ncnn、NumPy、C、float16、int8、WebAssembly，每一级都与前面的结果比较。",
    ),
}


def draw(name: str) -> str:
    """画出名为 ``name`` 的示意图，返回可以单独打开的 SVG 文本。"""
    import matplotlib.pyplot as plt

    function, alt = DRAWINGS[name]
    with style_context():
        fig = function()
        try:
            return svg.standalone(svg.render(fig, alt() if callable(alt) else alt))
        finally:
            plt.close(fig)


def contents() -> dict[str, str]:
    """全部生成的文件：相对于仓库根目录的路径 → 内容。"""
    files = {f"img/{name}.svg": draw(name) for name in DRAWINGS}
    files["img/favicon.svg"] = logo.favicon()
    files["img/logo.svg"] = logo.logo()
    files["img/logo_dark.svg"] = logo.logo(dark=True)
    files["_site_static/figures.css"] = palette.stylesheet()
    return files


def regenerate(root: Path = ROOT) -> list[str]:
    """把全部文件写到 ``root`` 下，返回内容有变的那些路径。"""
    changed = []
    for name, content in contents().items():
        path = root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            with atomic_path(path) as temporary:
                temporary.write_text(content, encoding="utf-8", newline="\n")
            changed.append(name)
    return changed
