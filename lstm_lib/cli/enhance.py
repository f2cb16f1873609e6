"""python -m lstm_lib enhance：增强一个声音文件，边读边算边写，内存与文件长短无关。"""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lstm_lib.cli import UserError, check_writable
from lstm_lib.files import DISK_FULL, REASONS, atomic_path, c_path, os_reason, tidy_folders

FORMATS = {
    ".wav": "WAV",
    ".flac": "FLAC",
    ".ogg": "OGG",
    ".aiff": "AIFF",
    ".aif": "AIFF",
    ".w64": "W64",
    ".rf64": "RF64",
    ".caf": "CAF",
}
# 可以照搬给输出的样点类型；别的（mp3、ADPCM 等）换成输出格式自己的默认类型
KEPT_SUBTYPES = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
# 输出格式没有输入的样点类型时依次试的：一样细或更细的在前
NEAREST_SUBTYPES = {
    "PCM_U8": ("PCM_S8",),
    "PCM_S8": ("PCM_U8",),
    "PCM_32": ("PCM_24",),
    "FLOAT": ("PCM_24",),
    "DOUBLE": ("PCM_24",),
    "ALAC_20": ("PCM_24",),
    "ALAC_24": ("PCM_24",),
    "ALAC_32": ("PCM_32", "PCM_24"),
    "DWVW_24": ("PCM_24",),
}
BYTES = {
    "PCM_S8": 1,
    "PCM_U8": 1,
    "ULAW": 1,
    "ALAW": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
}
RIFF_LIMIT = 0xFFFF0000  # 普通 wav 的长度字段只有 32 位
DESCRIPTION = """\
增强一个声音文件：用本书训练的网络压低噪声。

输入：wav、flac、ogg 等，采样率从 1 kHz 到 3 MHz，任意声道数、任意长度。网络在 16 kHz 上工作，别的采样率会先转换、
做完再转回来（8 kHz 以上的成分因此没有了）；多声道逐个声道处理。输出与输入一样长，采样率、声道数不变，
样点类型（16 位、24 位、浮点……）只要输出格式支持也不变。
输出文件要么完整出现，要么不出现；中途按 Ctrl-C 或出错时，原来的同名文件原样不动，新建的文件夹也不留。

没有 --model 时用随书的网络，它听过真的噪声与真的普通话。--model 内置 是第一章的网络，只听过合成的声音；
第一次用时先训练一次（要几分钟），以后直接用缓存。"""

EPILOG = """\
例子：
  python -m lstm_lib enhance 带噪.wav 增强.wav
  python -m lstm_lib enhance 会议.flac 会议_增强.flac --engine onnxruntime

退出码：0 成功；1 文件或参数有问题，错误信息会说明怎么办；2 命令行写错；130 被 Ctrl-C 中断。"""


@dataclass
class Tally:
    """一路走一路记的账，最后报告给使用者。"""

    frames: int = 0
    clipped: int = 0
    peak: float = 0.0


def add_parser(subparsers):
    from lstm_lib.engines import offers

    engines = offers()
    parser = subparsers.add_parser(
        "enhance", help="增强一个声音文件（流式，长文件不多占内存）", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument(
        "input", metavar="输入", help="带噪的声音文件；- 是标准输入，管道里来的先整个存进临时文件"
    )
    parser.add_argument(
        "output", metavar="输出",
        help=f"增强后的文件，已存在则覆盖，缺的文件夹会建好；格式由扩展名定：{' '.join(FORMATS)}",
    )  # fmt: skip
    parser.add_argument(
        "--model",
        metavar="检查点",
        help="自己训练的网络：train 的输出文件夹或其中的检查点；内置 是第一章的；默认用随书的网络",
    )
    parser.add_argument(
        "--engine",
        metavar="引擎",
        choices=engines,
        help=engine_help(engines),
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="不显示进度条和总结，只报错误")
    parser.set_defaults(run=run)


def engine_help(engines) -> str:
    """``--engine`` 的说明，由发现的引擎拼成：float32 的、float16 的、int8 的，以及要另装包的。"""
    names = {
        dtype: "、".join(name for name, offer in engines.items() if offer.dtype == dtype)
        for dtype in ("float32", "float16", "int8")
    }
    text = f"用什么算：{names['float32']}，结果只差舍入；默认用 c，整条链都在 C 里，没有 C 编译器时用 numpy"
    if names["float16"]:
        text += f"；{names['float16']} 的权重存成半精度，差得比 int8 小得多"
    if names["int8"]:
        text += f"；{names['int8']} 的权重与输入经过量化，略有不同"
    absent = [f"{name}（pip install {' '.join(o.missing)}）" for name, o in engines.items() if o.missing]
    return text + (f"。还没有装、装了才能用的：{'、'.join(absent)}" if absent else "")


def run(args) -> int:
    from lstm_lib.enhance.audio import STDIN, AudioError, nothing, open_audio

    source_path, target_path = STDIN if args.input == "-" else Path(args.input), Path(args.output)
    started = time.perf_counter()
    try:
        check_paths(source_path, target_path, args.model)
        with open_audio(source_path) as source, terminate_cleanly():
            if source.frames == 0:
                raise UserError(nothing(source_path, source.note))
            with new_audio(target_path, source) as sink:
                chain = load_chain(args.model, args.engine, quiet=args.quiet)
                started = time.perf_counter()  # 训练与加载不算在处理用时里
                tally = enhance_blocks(source, sink, chain, source_path, quiet=args.quiet)
            rate, channels, note, subtype = source.samplerate, source.channels, source.note, sink.subtype
    except AudioError as error:
        raise UserError(str(error)) from error
    except OSError as error:  # 没有 errno 的是本书自己写的消息，已经是完整的话
        raise UserError(os_reason(error) + ("；请换一个路径。" if error.errno else "")) from error
    if note:
        warn(f"{source_path} {note}。")
    if tally.clipped:
        warn(
            f"{target_path} 有 {tally.clipped} 个样点超过满幅（峰值 {tally.peak:.2f}），"
            f"写成 {subtype} 时被削平；请先把输入调小，或把输入存成浮点 wav 再增强成 wav。"
        )
    if not args.quiet:
        seconds, used = tally.frames / rate, time.perf_counter() - started
        print(
            f"已写出 {target_path}：{rate} Hz，{channels} 声道，{seconds:.2f} 秒；"
            f"用时 {used:.2f} 秒，实时率 {used / seconds:.3f}"
        )
    return 0


def check_paths(source: Path, target: Path, model=None) -> None:
    """动手之前先把说得清的错都查出来。"""
    known = target.suffix.lower() in FORMATS
    streamed = re.fullmatch(r"-|/dev/std(out|err)|/(dev|proc/self)/fd/\d+", str(target))
    if streamed or (target.exists() and not (target.is_file() or target.is_dir())):
        raise UserError(
            f"输出 {target} 是标准输出、管道或设备，写不了：声音文件的文件头要等写完才回头填上；"
            "请给出文件名，例如 增强.wav，写完再送给别的程序。"
        )
    if target.is_dir():
        example = target / f"增强{target.suffix if known else '.wav'}"
        raise UserError(f"输出 {target} 是一个已有的文件夹；请给出文件名，例如 {example}。")
    if not known:
        what = f"不认识扩展名“{target.suffix}”" if target.suffix else "文件名没有扩展名，不知道用什么格式"
        raise UserError(f"不会写 {target}：{what}；请改用 {'、'.join(FORMATS)} 之一。")
    if model and os.path.exists(model) and target.exists() and os.path.samefile(model, target):
        raise UserError(f"输出 {target} 就是 --model 的检查点，写了会毁掉它；请给输出换一个名字。")
    if target.exists() and source.exists() and os.path.samefile(source, target):
        raise UserError(f"输入与输出是同一个文件 {target}；为免毁掉原来的录音，请给输出换一个名字。")
    check_writable("输出", target)


def output_format(path: Path, source) -> tuple[str, str]:
    """按扩展名与输入的样点类型决定输出的（容器格式，样点类型）。"""
    import soundfile

    container = FORMATS[path.suffix.lower()]
    subtype = soundfile.default_subtype(container)
    for candidate in (source.subtype, *NEAREST_SUBTYPES.get(source.subtype, ())):
        if candidate in KEPT_SUBTYPES and soundfile.check_format(container, candidate):
            subtype = candidate
            break
    if container == "WAV":
        if source.format in {"WAVEX", "RF64"}:
            container = source.format
        elif source.frames * source.channels * BYTES.get(subtype, 8) > RIFF_LIMIT:
            container = "RF64"  # 超过 4 GB 的 wav 用它的 64 位版本
    return container, subtype


@contextlib.contextmanager
def new_audio(path: Path, source):
    """打开与 ``source`` 同采样率、同声道数的输出文件；整个写完才以 ``path`` 的名字出现。"""
    import soundfile

    from lstm_lib.enhance.audio import SYSTEM_ERROR, said, too_much

    path = Path(os.path.realpath(path))  # 输出是符号链接时，新建的文件夹在它指向的那一边
    container, subtype = output_format(path, source)
    excess = too_much(container, source.samplerate, source.channels)
    if excess:
        raise UserError(f"{path.suffix} 存不下 {excess}；请把输出改成 .wav。")
    with contextlib.ExitStack() as stack:
        stack.enter_context(tidy_folders(path))
        try:
            temporary = stack.enter_context(atomic_path(path))
        except OSError as error:
            raise UserError(
                f"写不了 {path}：{REASONS.get(error.errno, error.strerror)}；请换一个能写的文件夹或文件名。"
            ) from error
        try:
            sink = soundfile.SoundFile(
                c_path(temporary), "w", source.samplerate, source.channels, subtype=subtype, format=container
            )
        except soundfile.SoundFileError as error:
            if getattr(error, "code", None) == SYSTEM_ERROR:  # wav 一打开就写文件头
                raise UserError(f"{path} {DISK_FULL}") from error
            raise UserError(
                f"{path.suffix} 格式存不下 {source.channels} 声道、{source.samplerate} Hz 的声音；"
                f"请把输出改成 .wav。底层的说法：{said(error)}"
            ) from error
        try:
            with sink:
                yield sink
        except soundfile.SoundFileError as error:  # 收尾写文件头时才发现写不下
            raise UserError(f"{path} {DISK_FULL}") from error


def load_chain(model, engine, quiet):
    """取得整条增强链。"""
    from lstm_lib import engines
    from lstm_lib.training import checkpoint

    if engine is None:
        engine = engines.preferred()
        if engine == "numpy" and not quiet:
            warn(
                "这里编译不了 C 内核，或者缓存文件夹写不了，改用 NumPy 计算，结果只差舍入，慢几倍；"
                "python -m lstm_lib doctor 说是哪一样、怎么补。"
            )
    try:
        engines.offers()[engine].check()  # 缺什么先说，别等训练完
    except ImportError as error:
        raise UserError(f"{error}；或改用 --engine numpy。") from error
    try:
        network = checkpoint.network(model, progress=not quiet)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    try:
        return engines.chain(network, engine)
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(f"引擎 {engine} 用不起来：{error}；请改用 --engine numpy。") from error


def enhance_blocks(source, sink, chain, path, quiet) -> Tally:
    """读一块、算一块、写一块；内存里始终只有一块。"""
    import torch
    from tqdm import tqdm

    from lstm_lib.enhance.audio import read_blocks
    from lstm_lib.enhance.streaming import AnyRateEnhancer

    torch.set_flush_denormal(True)  # 数字静音时不让非规格化数拖慢运算
    enhancer = AnyRateEnhancer(chain, source.samplerate, source.channels)
    tally = Tally()
    layout = "增强 {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} 秒 [{elapsed}<{remaining}]"
    scale = 1 / source.samplerate  # 进度条按秒显示，按样点数，免得零头累加
    with tqdm(total=source.frames, unit_scale=scale, bar_format=layout, disable=quiet) as bar:
        for block in read_blocks(source, path):
            tally.frames += len(block)
            write(sink, enhancer.process(block), tally)
            bar.update(len(block))
        write(sink, enhancer.flush(), tally)
    return tally


def write(sink, block, tally) -> None:
    """写一块，并数一数会被削平的样点（浮点格式不削）。"""
    import soundfile

    from lstm_lib.waves import write_blocks

    if sink.subtype not in {"FLOAT", "DOUBLE"} and block.size:
        magnitude = np.abs(block)
        tally.peak = max(tally.peak, float(magnitude.max()))
        tally.clipped += int(np.count_nonzero(magnitude > 1))
    if sink.subtype.startswith("PCM"):
        block = as_integers(block, 8 * BYTES[sink.subtype])
    try:
        write_blocks(sink, block)
    except (soundfile.SoundFileError, AssertionError) as error:  # 磁盘写满时 soundfile 给的是 AssertionError
        raise UserError(f"输出{DISK_FULL}") from error


def as_integers(block: np.ndarray, bits: int) -> np.ndarray:
    """±1 的浮点 → ``bits`` 位整数，就近取整，超过满幅的削平；放在 int32 的高位，等着写进声音文件。

    交给 libsndfile 自己转，它是往下舍的：平均低半格。
    """
    full = 2.0 ** (bits - 1)
    whole = np.clip(np.rint(block.astype(np.float64) * full), -full, full - 1)
    return whole.astype(np.int32) << (32 - bits)


@contextlib.contextmanager
def terminate_cleanly():
    """被 ``kill`` 时像 Ctrl-C 一样收尾：删掉写了一半的临时文件再退出。"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_):
        raise SystemExit(143)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def warn(text: str) -> None:
    print(f"注意：{text}", file=sys.stderr)
