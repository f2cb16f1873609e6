"""python -m lstm_lib build：写出两个文件的 C 源码，或编译命令行程序 enhancer。"""

from functools import partial
from pathlib import Path

from lstm_lib.cli import UserError, check_writable, writing

DESCRIPTION = """\
把语音增强器带到别处去：整条链（FFT、LSTM、线性层、掩蔽、重叠相加）都是 C，不要 Python。

  --source 文件夹   写出 enhancer.c、enhancer.h 与最短的例子 example.c；编译只要
                    cc -std=gnu11 -O3 enhancer.c example.c -lm
  --target 目标     编译命令行程序 enhancer：裸 PCM 从标准输入到标准输出，或 wav 到 wav

目标 native 是这台机器，用系统的编译器；别的目标由 ziglang 编译（pip install ziglang），Linux 的程序是静态的，
拷过去就能跑。各级指令集都编译进去，运行时挑最高的一级：x86-64 有 AVX2 与 AVX-512，aarch64 有点积指令，
armv7 要有 NEON 与 VFPv4，riscv64 与 loongarch64 不用向量指令。

模型文件另由 python -m lstm_lib export --to bin 写出。"""

EPILOG = """\
例子：
  python -m lstm_lib build --source 源码
  python -m lstm_lib build --target native
  python -m lstm_lib build --target armv7-linux --out 板子/enhancer

退出码：0 成功；1 编译不了或写不了，错误信息会说明；2 命令行写错；130 被 Ctrl-C 中断。"""


def add_parser(subparsers):
    from lstm_lib.native.program import NATIVE, TARGETS

    parser = subparsers.add_parser(
        "build", help="写出两个文件的 C 源码，或编译命令行程序", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--source", metavar="文件夹", help="把 C 源码写进这个文件夹，没有就建")
    parser.add_argument(
        "--target",
        metavar="目标",
        choices=(NATIVE, *TARGETS),
        help=f"编译给什么机器：{'、'.join((NATIVE, *TARGETS))}",
    )
    parser.add_argument(
        "--out", metavar="文件", help="程序的文件名（默认 enhancer，Windows 是 enhancer.exe）"
    )
    parser.set_defaults(run=partial(run, parser))


def run(parser, args) -> int:
    if (args.source is None) == (args.target is None):
        parser.error("--source 与 --target 要写一个，也只能写一个")
    if args.source is not None:
        if args.out is not None:
            parser.error("--out 是 --target 的选项；源码写到哪里由 --source 定")
        return write_source(Path(args.source))
    return compile_program(args.target, args.out)


def write_source(folder: Path) -> int:
    from lstm_lib.files import atomic_path
    from lstm_lib.native.release import release

    if folder.exists() and not folder.is_dir():
        raise UserError(f"--source {folder} 是一个文件；请给出文件夹。")
    check_writable("--source", folder)
    for name, text in release().items():
        with writing("--source", folder / name), atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
        print(f"已写出 {folder / name}（{len(text.encode()) / 1e3:.0f} KB）")
    print("编译：cc -std=gnu11 -O3 enhancer.c example.c -lm")
    return 0


def compile_program(target: str, name: str | None) -> int:
    from lstm_lib.native.build import NativeBuildError
    from lstm_lib.native.program import build_program, suffix

    out = Path(name or f"enhancer{suffix(target)}")
    if out.is_dir():
        raise UserError(f"--out {out} 是一个已有的文件夹；请给出文件名，例如 {out / 'enhancer'}。")
    check_writable("--out", out)
    try:
        with writing("--out", out):
            build_program(target, out)
    except UserError as error:
        if isinstance(error.__cause__, NativeBuildError):
            raise UserError(str(error.__cause__)) from error
        raise
    print(f"已写出 {out}（{target}，{out.stat().st_size / 1e3:.0f} KB）")
    return 0
