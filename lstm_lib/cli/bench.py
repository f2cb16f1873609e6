"""python -m lstm_lib bench：在这台机器上量整条增强链，各引擎与 RNNoise 轮流跑。"""

from lstm_lib.cli import UserError
from lstm_lib.cli._values import positive

DESCRIPTION = """\
在这台机器上量一量：同一个网络，波形进、波形出的整条链，一个线程，一次一个帧移（16 毫秒），各引擎轮流跑。

用时是中位数；实时率是算一秒声音要几秒；“快几倍”是逐轮相除之后的中位数，同一轮里机器一样忙，比微秒数可信。
装了 pyrnnoise（pip install pyrnnoise）就连 RNNoise 一起比；它在 48 kHz 上工作，一次 10 毫秒，所以比的是一秒的声音。
快慢与权重的值无关：没有 --model 时用随机的权重，不必训练。请在机器空闲时跑。"""

EPILOG = """\
例子：
  python -m lstm_lib bench
  python -m lstm_lib bench --rounds 50 --model 我的网络

退出码：0 成功；1 检查点有问题，或某个引擎算得不对；2 命令行写错；130 被 Ctrl-C 中断。"""


def add_parser(subparsers):
    parser = subparsers.add_parser(
        "bench",
        help="在这台机器上量整条链的快慢，各引擎与 RNNoise 轮流跑",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("--rounds", type=positive, metavar="轮数", default=20, help="轮流多少轮，默认 20")
    parser.add_argument(
        "--model", metavar="检查点", help="自己训练的网络：train 的输出文件夹或其中的检查点；内置 是第一章的"
    )
    parser.set_defaults(run=run)


def run(args) -> int:
    import torch
    from threadpoolctl import threadpool_limits

    from lstm_lib.engines import chain_race

    network = load_network(args.model)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            report = chain_race.compare(network, args.rounds)
    except (AssertionError, ImportError, RuntimeError) as error:
        raise UserError(f"有一个引擎用不起来，或算得与 NumPy 不同：{error}") from error
    finally:
        torch.set_num_threads(before)
    print(report.table)
    if report.parts is not None:
        print(f"\n{report.parts}")
    for note in report.notes:
        print(f"\n{note}")
    return 0


def load_network(model):
    """``--model`` 的网络；没有就是书中的尺寸、随机的权重。"""
    import torch

    from lstm_lib.enhance import irm
    from lstm_lib.enhance.config import REPAIRED

    if model is None:
        torch.manual_seed(0)
        return irm.IRMNetwork(REPAIRED).eval()
    from lstm_lib.training import checkpoint

    try:
        return checkpoint.network(model)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
