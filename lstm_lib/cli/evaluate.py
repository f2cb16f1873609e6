"""python -m lstm_lib evaluate：在成对的文件夹上给网络打分，旁边放上经典方法与理想掩蔽。"""

import os
import sys
from pathlib import Path

from lstm_lib.cli import UserError, check_writable, writing
from lstm_lib.cli._values import add_max_bad, process_count
from lstm_lib.files import os_reason

DESCRIPTION = """\
在成对的（纯净、带噪）文件夹上打分：SI-SDR、STOI，装了 pesq 包还有 PESQ。

表里依次是：不处理的带噪语音（下限）、几种经典方法、网络、理想掩蔽（已知答案时的理想比值掩蔽，作参照）。
文件按名字配对，任意采样率、声道数；读不了的、没有声音的跳过，并报告。
太短的（STOI 要约 0.4 秒语音，PESQ 要 0.25 秒）算不出的那一格空着，平均只算其余的，也会说明。"""

EPILOG = """\
例子：
  python -m lstm_lib evaluate --paired clean_testset_wav noisy_testset_wav --model 训练结果 --csv 得分.csv
  python -m lstm_lib evaluate --data VoiceBank根目录 --model 训练结果
  python -m lstm_lib mix --speech 语音 --noise 噪声 --out 测试
  python -m lstm_lib evaluate --paired 测试/clean 测试/noisy --model 训练结果 --against rnnoise

退出码：0 成功；1 数据或参数有问题，错误信息会说明怎么办；2 命令行写错；130 被 Ctrl-C 中断。"""


def add_parser(subparsers):
    parser = subparsers.add_parser(
        "evaluate", help="在成对的文件夹上给网络打分", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument(
        "--paired", metavar=("纯净", "带噪"), nargs=2, action="append", default=[],
        help="成对的两个文件夹，按文件名配对；可以写几次",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="文件夹", nargs="+", default=[], help="认得的数据集的根，用其中的测试集"
    )
    parser.add_argument(
        "--model",
        metavar="检查点",
        help="train 的输出文件夹或其中的检查点；内置 是第一章的；默认用随书的网络",
    )
    parser.add_argument(
        "--against", choices=("rnnoise",), nargs="+", default=[], metavar="对照",
        help="一同比的别的方法：rnnoise（要先 pip install pyrnnoise）",
    )  # fmt: skip
    parser.add_argument("--csv", metavar="文件", help="把平均分与逐文件的得分写成 CSV；缺的文件夹会建好")
    parser.add_argument("--no-pesq", action="store_true", help="不算 PESQ（它最慢）")
    parser.add_argument(
        "--workers", metavar="个数", type=process_count, default=min(8, os.cpu_count() or 1),
        help="几个进程一起算（默认看核数，至多 8）",
    )  # fmt: skip
    add_max_bad(parser, "不能用")
    parser.set_defaults(run=run)


def run(args) -> int:
    from lstm_lib.training import evaluation

    if args.csv:
        check_csv(Path(args.csv))
    try:
        pairs = find_pairs(args)
        check_roles(args, pairs)
        measures = [m for m in evaluation.available_measures() if m != "pesq" or not args.no_pesq]
        check_model(args.model)
        against = dict.fromkeys(args.against)
        check_against(against)
        scores = evaluation.evaluate(
            pairs, args.model, measures, workers(args, pairs), progress(len(pairs)), against
        )
        report(args, scores, len(pairs))
        print(evaluation.table(scores))
        for line in evaluation.explain(scores):
            print(line)
        suggest_pesq(args.no_pesq)
        if args.csv:
            with writing("--csv", args.csv):
                evaluation.write_csv(args.csv, scores)
            print(f"已写出 {args.csv}")
    except OSError as error:
        raise UserError(os_reason(error)) from error
    except ValueError as error:
        raise UserError(str(error)) from error
    return 0


def check_csv(path: Path) -> None:
    """打分要好一阵，写不了的文件名先说。"""
    if os.path.isdir(path):
        raise UserError(f"--csv {path} 是一个已有的文件夹；请给出文件名，例如 {path / '得分.csv'}。")
    check_writable("--csv", path)


def find_pairs(args):
    """命令行给的文件夹 → 配好的文件对。"""
    from lstm_lib.training import folders, known, sources

    roots = [tuple(map(Path, pair)) for pair in args.paired]
    for root in map(folders.existing_folder, args.data):
        found = [p for each in known.recognise(root) for p in each.pairs("test")]
        if not found:
            raise UserError(f"--data {root}：没有找到认得的测试集；请用 --paired 给出纯净与带噪两个文件夹。")
        roots += found
    if not roots:
        raise UserError("没有给数据；请给 --paired 纯净 带噪，或 --data 数据集的根。")
    data = sources.Sources(max_bad=args.max_bad)
    bad = []
    pairs = [pair for clean, noisy in roots for pair in sources.scan_pairs(clean, noisy, data, bad)]
    for each in bad:
        print(f"跳过 {each.path}：{each.reason}", file=sys.stderr)
    for line in folders.notes(file for p in pairs for file in (p.clean, p.noisy)):
        print(line, file=sys.stderr)
    once = {(p.clean.path, p.noisy.path): p for p in pairs}
    if len(once) < len(pairs):
        print(f"注意：有 {len(pairs) - len(once)} 对给了不止一次，只算一次", file=sys.stderr)
    return list(once.values())


def check_roles(args, pairs):
    """``--csv`` 不能盖掉声音或检查点；拿训练过的声音来评测，说一声。"""
    from lstm_lib.training import checkpoint
    from lstm_lib.training.overlap import listed, same_sound
    from lstm_lib.training.sources import trained_on

    files = [f for p in pairs for f in (p.clean, p.noisy)]
    if args.csv and os.path.exists(args.csv):
        given = [("评测的声音", f.path) for f in files]
        given += [("--model 的检查点", path) for path in checkpoint.files(args.model)]
        for what, path in given:
            if os.path.exists(path) and os.path.samefile(path, args.csv):
                raise UserError(f"--csv {args.csv} 就是{what} {path}，写了会毁掉它；请换一个文件名。")
    same = same_sound(trained_on(args.model), files) if args.model not in (None, checkpoint.BUILTIN) else []
    if same:
        print(
            f"注意：{listed(same)}是这个网络训练时用过的，得分会偏高；请用没有训练过的声音。", file=sys.stderr
        )


def check_model(model):
    """先把检查点读一遍：坏了就立刻说，不必等几个进程各说一遍。"""
    from lstm_lib.training import checkpoint

    checkpoint.network(model)


def check_against(names):
    """要比的方法能不能用，先说。"""
    from lstm_lib.enhance import rnnoise

    if "rnnoise" in names and (reason := rnnoise.why_not()):
        raise UserError(f"--against rnnoise：{reason}。")


def workers(args, pairs) -> int:
    # 起一个进程要好几秒，文件少时不值得
    return 1 if len(pairs) < 8 else args.workers


def progress(total, what="打分"):
    from tqdm import tqdm

    return lambda iterator: tqdm(iterator, total=total, desc=what, unit="对", disable=None, leave=False)


def report(args, scores, total):
    from lstm_lib.training.folders import check_bad

    check_bad(scores.bad, len(scores.names), args.max_bad, "成对数据")
    for each in scores.bad:
        print(f"跳过 {each.path}：{each.reason}", file=sys.stderr)
    print(f"{total - len(scores.bad)} 对文件的平均")


def suggest_pesq(no_pesq: bool):
    """没有装 pesq 的，说一声；自己说了不要 PESQ 的，不必提。"""
    from lstm_lib.training.evaluation import available_measures

    if not no_pesq and "pesq" not in available_measures():
        print("没有安装 pesq 包，所以没有 PESQ 一列；要它就 pip install pesq（需要 C 编译器）")
