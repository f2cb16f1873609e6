"""依赖的版本只写在 requirements.txt 与 requirements-dev.txt 里；这里把它们分给 ``pip install '.[…]'`` 的各个附加项。"""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
CORE = ("numpy",)  # pip install .：手写的 LSTM 只用 NumPy
NATIVE = ("cffi", "filelock", "platformdirs", "ziglang", "wasmtime")  # C 内核，本机的与 WebAssembly 的
TRAIN = (  # 训练、打分与增强声音文件
    *("torch", "scipy", "soundfile", "soxr", "safetensors", "tqdm", "filelock", "platformdirs"),
    *("threadpoolctl", "pystoi", "espeakng-loader"),
)
BROWSER = ("playwright", "pypdf")  # 网页测试与 PDF


def requirements(name):
    """清单里的每一条：包名 → 连同版本的写法；选项行（-e、-r）与注释不要。"""
    lines = (line.split("#")[0].strip() for line in (HERE / name).read_text(encoding="utf-8").splitlines())
    return {re.match(r"[\w.-]+", line).group(): line for line in lines if line and not line.startswith("-")}


book, tools = requirements("requirements.txt"), requirements("requirements-dev.txt")
setup(
    install_requires=[book[name] for name in CORE],
    extras_require={
        "native": [book[name] for name in NATIVE],
        "train": [book[name] for name in TRAIN],
        "book": list(book.values()),
        "browser": [tools[name] for name in BROWSER],
        "test": ["lstm_lib[book]", *(line for name, line in tools.items() if name not in BROWSER)],
    },
)
