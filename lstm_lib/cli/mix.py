"""python -m lstm_lib mix：用语音与噪声混出成对的文件，供 evaluate 打分、train 验证。"""

from pathlib import Path

from lstm_lib.cli import UserError, check_writable
from lstm_lib.cli._values import add_max_bad, natural, number, positive, positive_number
from lstm_lib.cli.doctor import need_memory
from lstm_lib.cli.evaluate import progress
from lstm_lib.files import os_reason
from lstm_lib.waves import SAMPLE_RATE

# 写成 24 位：一格是 -138 dBFS，舍入的误差约 -149 dBFS；较轻的一路再低，信噪比就不是名字里写的了
FAINTEST = -126  # dBFS，均方根
LOUDEST = -20  # dBFS；要得再响，峰值也不许到顶，混好的多半会压到这里
MIXING_BYTES = 24  # 混一段时每个样点约占的字节（实测）

DESCRIPTION = """\
用语音与噪声混出成对的（纯净、带噪）文件：给 evaluate 打分，或给 train 作 --valid。

用没有训练过的说话人与噪声（--only-speech、--only-noise、--leave-out 按文件名挑），得分才作数。
信噪比轮着用，写在文件名里；短的语音同一个人的接成一段。同样的参数与种子，混出的总是一样。"""

EPILOG = """\
例子：
  python -m lstm_lib mix --speech 语音 --noise 噪声 --only-noise '5-*' --out 测试
  python -m lstm_lib evaluate --paired 测试/clean 测试/noisy --model 训练结果
  python -m lstm_lib train --speech 语音 --noise 噪声 --leave-out '5-*' --valid 测试 --out 训练结果

退出码：0 成功；1 数据或参数有问题，错误信息会说明怎么办；2 命令行写错；130 被 Ctrl-C 中断。"""


def add_parser(subparsers):
    parser = subparsers.add_parser(
        "mix", help="用语音与噪声混出成对的文件", description=DESCRIPTION, epilog=EPILOG
    )
    for name, what in (("speech", "纯净语音"), ("noise", "噪声")):
        parser.add_argument(
            f"--{name}", metavar="文件夹", nargs="+", required=True,
            help=f"{what}，可以几个；“文件夹=权重”与“内置”同 train",
        )  # fmt: skip
    parser.add_argument("--out", metavar="文件夹", required=True, help="写到哪里；要是还没有的，或空的")
    parser.add_argument("--count", metavar="对数", type=positive, default=80, help="混几对（默认 80）")
    parser.add_argument(
        "--seconds", metavar="秒", type=positive_number, default=5.0, help="每个几秒（默认 5）"
    )
    parser.add_argument(
        "--snr", metavar="分贝", type=number, nargs="+", default=[-5.0, 0.0, 5.0, 10.0],
        help="信噪比，轮着用（默认 -5 0 5 10）",
    )  # fmt: skip
    parser.add_argument(
        "--level", metavar=("低", "高"), type=number, nargs=2, default=(-30.0, -18.0),
        help="带噪语音的电平范围，dBFS（默认 -30 -18）",
    )  # fmt: skip
    for name, what in (("only-speech", "语音"), ("only-noise", "噪声")):
        parser.add_argument(
            f"--{name}", metavar="通配符", nargs="+", default=[], help=f"只用名字配得上的{what}文件"
        )
    parser.add_argument("--leave-out", metavar="通配符", nargs="+", default=[], help="名字配得上的文件不用")
    parser.add_argument("--seed", metavar="整数", type=natural, default=0, help="随机种子（默认 0）")
    add_max_bad(parser, "读不了")
    parser.set_defaults(run=run)


def run(args) -> int:
    from lstm_lib.training import mixing, sources

    out = Path(args.out)
    for option, values in (("--snr", args.snr), ("--level", args.level)):
        if not all(-200 < value < 200 for value in values):
            raise UserError(f"{option} {' '.join(f'{v:g}' for v in values)}：不是合理的分贝数。")
    if args.level[0] > args.level[1]:
        raise UserError(f"--level {args.level[0]:g} {args.level[1]:g}：要先低后高。")
    faintest = min(args.level[0], LOUDEST) - max(abs(snr) for snr in args.snr)
    if faintest < FAINTEST:
        raise UserError(
            f"--level {args.level[0]:g} 与 --snr {max(args.snr, key=abs):g}：较轻的一路只有约 {faintest:g} dBFS，"
            f"24 位的 wav 存不准（至少要 {FAINTEST} dBFS）；请把电平调高，或让信噪比离零近些。"
        )
    if args.seconds < 0.1:
        raise UserError(
            f"--seconds {args.seconds:g}：太短，打不了分；至少 0.1 秒，STOI 要 0.4 秒以上的语音。"
        )
    need = args.seconds * SAMPLE_RATE * MIXING_BYTES / 1e9
    need_memory(f"--seconds {args.seconds:g}：混一段", need, "请改小。")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"--out {out} 已经有了，里面的东西不能盖掉；请换一个名字，或先移走它。")
    check_writable("--out", out)
    data = sources.Sources(
        speech=args.speech,
        noise=args.noise,
        max_bad=args.max_bad,
        leave_out=args.leave_out,
        only={"speech": args.only_speech, "noise": args.only_noise},
    )
    try:
        mixing.mix(
            data,
            out,
            args.count,
            args.seconds,
            args.snr,
            tuple(args.level),
            args.seed,
            progress(args.count, "混合"),
        )
    except OSError as error:
        raise UserError(os_reason(error)) from error
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"已写出 {args.count} 对：{out / 'clean'} 与 {out / 'noisy'}")
    return 0
