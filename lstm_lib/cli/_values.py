"""各子命令共用的选项：要正数、要份额之类的值怎样读；不合的说明白错在哪里。"""

import argparse
import math
import os


def positive(text):
    value = natural(text)
    if value == 0:
        raise argparse.ArgumentTypeError("要大于零")
    return value


def natural(text):
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} 不是整数") from None
    if value < 0:
        raise argparse.ArgumentTypeError("不能是负数")
    if value >= 1 << 63:
        raise argparse.ArgumentTypeError("太大了，要小于 2 的 63 次方")
    return value


def process_count(text):
    """子进程的个数；多得离谱的（多半是手误）会把机器拖死。"""
    value, cores = natural(text), os.cpu_count() or 1
    most = max(8, 4 * cores)
    if value > most:
        raise argparse.ArgumentTypeError(f"{value} 个太多，这台机器有 {cores} 个核，至多 {most} 个")
    return value


def positive_number(text):
    value = number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError("要是一个有限的数")
    if value <= 0:
        raise argparse.ArgumentTypeError("要大于零")
    return value


def learning_rate(text):
    value = positive_number(text)
    if value > 1000:  # Adam 一步大约走这么远，权重却多半小于 1
        raise argparse.ArgumentTypeError("太大了，要不大于 1000；常用的是 0.0001 到 0.01")
    return value


def share(text):
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("要在 0 与 1 之间")
    return value


def below_one(text):
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError("要不小于 0、小于 1")
    return value


def fraction(text):
    value = number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("要大于 0、小于 1")
    return value


def number(text):
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} 不是数") from None


def add_max_bad(parser, kind: str) -> None:
    """添上 ``--max-bad``；``kind`` 说跳过的是怎样的文件。"""
    parser.add_argument(
        "--max-bad", metavar="份额", type=share, default=0.05,
        help=f"{kind}的文件跳过，超过这个份额就停下（默认 0.05）",
    )  # fmt: skip
