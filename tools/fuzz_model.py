"""拿完好的模型文件变出许多损坏的，逐个打开：每一个都要报错或真的能用，不崩溃、不卡住、不多要内存。

用 AddressSanitizer 与 UndefinedBehaviorSanitizer 编译 tests/fuzz_model.c 与两个文件的发行版，跑到时间为止。
出错的那个变体存成文件，以 1 退出。
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lstm_lib.cli import ChineseParser
from lstm_lib.cli._values import positive_number
from lstm_lib.formats import network_file
from lstm_lib.lstm import LSTM
from lstm_lib.lstm.layouts import LSTMConfig
from lstm_lib.native import build, program

ROOT = Path(__file__).resolve().parent.parent
SANITIZE = ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]  # 不优化：编译快一倍


def models() -> dict[str, bytes]:
    """``{名字: 文件的字节}``：两个版本、几种类型、有没有线性层、是不是增强网络。"""
    rng = np.random.default_rng(0)

    def lstm(*sizes, **options):
        config = LSTMConfig(*sizes, **options)
        return LSTM(config, {k: rng.uniform(-0.5, 0.5, s) for k, s in config.shapes().items()})

    def head(rows, columns):
        return rng.uniform(-0.5, 0.5, (rows, columns)), rng.uniform(-0.5, 0.5, rows)

    stft = network_file.STFT
    small, deep, bare = lstm(7, 3), lstm(16, 10, num_layers=3), lstm(9, 9, bias=False)
    both = lstm(5, 6, num_layers=2, direction="bidirectional", proj_size=2)
    found = {}
    for dtype in ("float32", "float64", "float16", "int8"):
        found[f"small-{dtype}"] = network_file.encode(small, *head(8, 3), True, stft(14, 7, 16000, 1), dtype)
        found[f"deep-{dtype}"] = network_file.encode(deep, *head(17, 10), True, stft(32, 8, 8000, 1), dtype)
        found[f"bare-{dtype}"] = network_file.encode(bare, None, None, True, stft(16, 8, 16000, 0), dtype)
        found[f"both-{dtype}"] = network_file.encode(both, dtype=dtype)
    for name, weights in {"small": small, "both": both}.items():
        found[f"{name}-v1"] = weights.to_bytes()
    return found


def compile_all(folder: Path) -> None:
    """在 ``folder`` 里编译 fuzz_model 与命令行程序 enhancer；没有系统的编译器抛 ``NativeBuildError``。"""
    compiler = build.compilers()[:1]
    if not compiler or "ziglang" in compiler[0]:
        raise build.NativeBuildError("要用带 AddressSanitizer 的系统编译器（Debian：apt install gcc）")
    base = [*compiler[0], "-std=gnu11", *SANITIZE, f"-I{folder}"]
    source, main_source = program.write_sources(folder)
    chain = str(folder / "enhancer.o")
    build.run([*base, "-c", source, "-o", chain])
    for name, other in {"fuzz_model": str(ROOT / "tests" / "fuzz_model.c"), "enhancer": main_source}.items():
        build.run([*base, chain, other, "-o", str(folder / name), "-lm"])


def fuzz(folder: Path, seed: int, times: int, seconds: float, saved: Path) -> subprocess.CompletedProcess:
    """用 ``folder`` 里编译好的 fuzz_model 跑 ``times`` 个变体或 ``seconds`` 秒，先到为止。"""
    files = []
    for name, data in models().items():
        files.append(folder / f"{name}.lstm")
        files[-1].write_bytes(data)
    command = [folder / "fuzz_model", str(seed), str(times), str(seconds), saved, *files]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main() -> int:
    parser = ChineseParser(
        prog="python tools/fuzz_model.py",
        description=__doc__,
        epilog="退出码：0 没有查出问题；1 查出了，或编译不了；2 命令行写错。",
    )
    parser.add_argument("--hours", type=positive_number, metavar="小时", help="跑几小时")
    parser.add_argument("--seconds", type=positive_number, metavar="秒", help="跑几秒（默认 60）")
    parser.add_argument("--seed", type=int, default=0, metavar="种子", help="同一个种子，变体相同（默认 0）")
    parser.add_argument(
        "--saved", type=Path, default=Path("fuzz-fail.lstm"), metavar="文件", help="出错的变体存在哪里"
    )
    args = parser.parse_args()
    seconds = args.hours * 3600 if args.hours else args.seconds or 60
    with tempfile.TemporaryDirectory() as folder:
        try:
            compile_all(Path(folder))
            print(f"种子 {args.seed}，{seconds:g} 秒", flush=True)
            done = fuzz(Path(folder), args.seed, 2**62, seconds, args.saved)
        except build.NativeBuildError as error:
            print(f"错误：{error}", file=sys.stderr)
            return 1
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
