"""python -m lstm_lib train：在内置语料或自己的数据上训练书中的网络。"""

import os
from pathlib import Path

from lstm_lib.cli import UserError, check_writable, writing
from lstm_lib.cli._values import (
    add_max_bad,
    below_one,
    fraction,
    learning_rate,
    natural,
    positive,
    positive_number,
    process_count,
    share,
)
from lstm_lib.cli.doctor import need_memory
from lstm_lib.files import os_reason
from lstm_lib.threads import waiting

DESCRIPTION = """\
训练书中的语音增强网络。

不给数据时，在内置语料上按书中的配方训练（几分钟；书里已经训练过就直接取来），存成一个 safetensors 权重文件。
这时只认 --steps（总步数）、--batch、--lr、--clip、--seed、--out，与下面“网络”一组。
给了数据，就在自己的数据上训练：文件夹递归地找，跟随符号链接；wav、flac、ogg、mp3，任意采样率、任意声道数；
什么也不整个装进内存，随机片段由工作进程从磁盘上现读现混。
训练与验证按说话人、按噪声文件划分。

被打断（断电、kill -9、磁盘满）以后，用同一条命令再来一次，就从最后的检查点接着训练，
结果与没有断过的一样，最多丢一轮。"""

EPILOG = """\
例子：
  python -m lstm_lib train --speech 语音文件夹 --noise 噪声文件夹 --out 训练结果
  python -m lstm_lib train --data VoiceBank根目录 --out 训练结果
  python -m lstm_lib train --data data_aishell musan --epochs 50 --workers 8
  python -m lstm_lib train --data data_aishell musan --layers 2 --hidden 128 --n-fft 320 --hop 160
  torchrun --nproc-per-node=4 -m lstm_lib train --data datasets_fullband --batch 64

输出文件夹里有：best.safetensors（验证最好的网络，供 enhance、evaluate、export 用），last.pt、previous.pt
（接着训练用的检查点），log.csv（每轮一行），tensorboard/（装了 tensorboard 才有），
unreadable.txt（跳过的文件）。

认得的数据集：VoiceBank-DEMAND、DNS Challenge、THCHS-30、AISHELL-1、MUSAN、ESC-50、DEMAND。

退出码：0 成功；1 数据或参数有问题，错误信息会说明怎么办；2 命令行写错；130 被 Ctrl-C 中断。"""

# 内置语料上能改的配方：命令行参数的名字 → 配方里的名字
RECIPE_FIELDS = {"steps": "steps", "batch": "batch", "lr": "learning_rate", "clip": "clip", "seed": "seed"}
CPU_BYTES = 100  # 在 CPU 上训练，每个样点约占的字节：谱、门与梯度都算（256 段时实测 114）
PARAMETER_BYTES = 16  # 每个参数：权重、梯度、Adam 的两个矩，各一个 float32
WAVE_BYTES = 8  # 在显卡上训练，内存里只有带噪与纯净两路波形
OWN_DATA_ONLY = {
    "epochs": "--epochs",
    "seconds": "--seconds",
    "valid_share": "--valid-share",
    "valid_segments": "--valid-segments",
    "speaker": "--speaker",
    "leave_out": "--leave-out",
    "max_bad": "--max-bad",
    "snr": "--snr",
    "level": "--level",
    "loss": "--loss",
    "augment": "--augment",
    "average": "--average",
    "carry": "--carry",
    "init": "--init",
    "restart": "--restart",
    "device": "--device",
    "amp": "--amp",
    "workers": "--workers",
    "tensorboard": "--tensorboard",
}


def add_parser(subparsers):
    parser = subparsers.add_parser(
        "train", help="训练网络（内置语料，或自己的数据）", description=DESCRIPTION, epilog=EPILOG
    )
    data = parser.add_argument_group("数据")
    data.add_argument(
        "--speech", metavar="文件夹", nargs="+", default=[],
        help="纯净语音，可以几个；写成“文件夹=权重”定各占多少，写“内置”就是书中的合成语音",
    )  # fmt: skip
    data.add_argument(
        "--noise", metavar="文件夹", nargs="+", default=[],
        help="噪声，可以几个；权重同上，写“内置”就是书中的噪声再加十二族更像生活的",
    )  # fmt: skip
    data.add_argument(
        "--paired", metavar=("纯净", "带噪"), nargs=2, action="append", default=[],
        help="已经混好的成对数据，按文件名配对；可以写几次",
    )  # fmt: skip
    data.add_argument(
        "--data", metavar="文件夹", nargs="+", default=[], help="认得的数据集的根，该用哪里由程序决定"
    )
    data.add_argument(
        "--valid", metavar="文件夹", nargs="+",
        help="另给验证集：成对的“纯净 带噪”两个文件夹，或内有 clean、noisy 两个子文件夹的一个文件夹；"
        "不给就从训练数据里分出来",
    )  # fmt: skip
    data.add_argument(
        "--valid-share", metavar="份额", type=fraction, default=0.1, help="分给验证的时长份额（默认 0.1）"
    )
    data.add_argument(
        "--speaker", metavar="正则", help="从相对路径里取说话人的正则，第一对括号里是说话人，如 '(spk\\d+)_'"
    )
    data.add_argument(
        "--leave-out", metavar="通配符", nargs="+", default=[],
        help="名字配得上的语音与噪声文件不碰（留作测试），如 '5-*'",
    )  # fmt: skip
    add_max_bad(data, "读不了")
    data.add_argument(
        "--snr", metavar=("低", "高"), type=float, nargs=2, default=(-8.0, 15.0),
        help="混合的信噪比范围，dB（默认 -8 15）",
    )  # fmt: skip
    data.add_argument(
        "--level", metavar=("低", "高"), type=float, nargs=2, default=(-40.0, -15.0),
        help="带噪语音的电平范围，dBFS（默认 -40 -15）",
    )  # fmt: skip
    course = parser.add_argument_group("训练")
    course.add_argument(
        "--out", metavar="路径", help="输出：自己的数据是文件夹（默认 runs/irm），内置语料是文件"
    )
    course.add_argument("--epochs", metavar="轮数", type=positive, default=20, help="训练几轮（默认 20）")
    course.add_argument(
        "--steps", metavar="步数", type=natural, default=0,
        help="每轮几步（默认按数据多少：平均每秒声音一轮用到一次，10 到 1000 步）；内置语料上是总步数",
    )  # fmt: skip
    course.add_argument("--batch", metavar="段数", type=positive, default=16, help="全局每步几段（默认 16）")
    course.add_argument(
        "--seconds", metavar="秒", type=positive_number, default=2.0, help="每段几秒（默认 2）"
    )
    course.add_argument(
        "--lr", metavar="学习率", type=learning_rate, default=4e-3, help="最高学习率（默认 0.004）"
    )
    course.add_argument(
        "--clip", metavar="范数", type=positive_number, default=1.0, help="梯度裁剪（默认 1）"
    )
    course.add_argument(
        "--valid-segments", metavar="段数", type=positive, default=128, help="验证用几段（默认 128）"
    )
    course.add_argument("--seed", metavar="整数", type=natural, default=0, help="随机种子（默认 0）")
    course.add_argument(
        "--loss", choices=("si-sdr", "clear"), default="si-sdr", metavar="损失",
        help="si-sdr（默认），或 clear：再加上可懂度（STOI）与压缩谱，多留弱的辅音",
    )  # fmt: skip
    course.add_argument(
        "--augment", action="store_true",
        help="随机变一变再混：语音与噪声各自均衡、变速变调、加混响，噪声有时叠两个，短的语音接成一段",
    )  # fmt: skip
    course.add_argument(
        "--average", metavar="份额", type=below_one, default=0.0,
        help="验证与存下的是权重的滑动平均，每步留住这么多，如 0.999：没有训练完的也好用（默认 0，不平均）",
    )  # fmt: skip
    course.add_argument(
        "--carry", metavar="份额", type=share, default=0.0,
        help="这么多的段从上一批的末状态出发，如 0.2：半路换了噪声也不怕（默认 0，段段从零状态出发）",
    )  # fmt: skip
    course.add_argument("--init", metavar="检查点", default="", help="从已训练的网络起步（微调）")
    course.add_argument(
        "--restart",
        action="store_true",
        help="丢开输出文件夹里已有的检查点，从头训练；第一轮存下之前，旧的还在",
    )
    network = parser.add_argument_group(
        "网络", "不写就是书中的网络；写了什么，都随权重一起存下，别的命令自己会读"
    )
    network.add_argument(
        "--hidden", metavar="个数", type=positive, help="每层的隐藏单元数（默认与频点一样多：257）"
    )
    network.add_argument("--layers", metavar="层数", type=positive, default=1, help="LSTM 的层数（默认 1）")
    network.add_argument(
        "--n-fft", metavar="样点", type=positive, default=512, help="STFT 的窗长，正偶数（默认 512）"
    )
    network.add_argument(
        "--hop", metavar="样点", type=positive, help="STFT 的帧移，整除窗长、至多一半（默认一半）"
    )
    network.add_argument("--document", action="store_true", help="去掉线性层：LSTM 直接接 Sigmoid 的原样网络")
    machine = parser.add_argument_group("机器")
    machine.add_argument(
        "--device", metavar="设备", default="auto", help="auto（默认）、cpu、cuda、cuda:1、mps"
    )
    machine.add_argument(
        "--amp", choices=("auto", "off", "bf16", "fp16"), default="auto", metavar="精度",
        help="混合精度：auto（默认，只在 NVIDIA 显卡上用）、off、bf16、fp16",
    )  # fmt: skip
    machine.add_argument(
        "--workers",
        metavar="个数",
        type=process_count,
        help="每个训练进程几个读数据的子进程（默认看核数，至多 4）",
    )
    machine.add_argument(
        "--tensorboard", choices=("auto", "on", "off"), default="auto", metavar="开关",
        help="auto（默认，装了就写）、on（没装就报错）、off",
    )  # fmt: skip
    parser.set_defaults(run=run, default_of=parser.get_default)


def run(args) -> int:
    own_data = any((args.speech, args.noise, args.paired, args.data))
    if not own_data and args.valid:
        raise UserError(
            "只给了 --valid，没有给训练数据；请再给 --speech 与 --noise，或 --paired，或 --data。"
        )
    for name, (low, high) in (("--snr", args.snr), ("--level", args.level)):
        if not -200 < low <= high < 200:
            raise UserError(f"{name} {low:g} {high:g}：要先低后高，且是合理的分贝数。")
    os.environ.update(waiting())  # 要赶在 torch 载入之前
    try:
        config = network_config(args)
        return train_own(args, config) if own_data else train_builtin(args, config)
    except OSError as error:
        raise UserError(os_reason(error)) from error
    except ValueError as error:
        raise UserError(str(error)) from error


def network_config(args):
    """“网络”那一组选项 → 网络的配置；尺寸不合是 ``ValueError``。"""
    from lstm_lib.enhance.config import NetworkConfig

    sizes = {"num_layers": args.layers, "head": not args.document}
    if args.hidden is not None:
        sizes["hidden_size"] = args.hidden
    return NetworkConfig.for_stft(args.n_fft, args.hop, **sizes)


def train_builtin(args, config) -> int:
    """内置语料：什么都不改，就是书中用的那一份网络；改了配方就当场另训练一个。"""
    from dataclasses import replace

    from lstm_lib import corpus
    from lstm_lib.enhance import irm, recipe
    from lstm_lib.enhance.trained import load_trained, training_history

    given = {name for name in vars(args) if getattr(args, name) != args.default_of(name)}
    useless = [option for name, option in OWN_DATA_ONLY.items() if name in given]
    if useless:
        raise UserError(
            f"{'、'.join(useless)} 只用于自己的数据，在内置语料上不起作用；"
            "请去掉，或用 --speech 与 --noise、--paired、--data 给出数据。"
        )
    name = "document" if args.document else "repaired"
    target = Path(args.out or f"irm-{name}.safetensors")
    if target.suffix != ".safetensors":
        raise UserError(f"--out {target}：内置语料训练的结果是一个权重文件，请用 .safetensors 作扩展名。")
    if target.is_dir():
        raise UserError(f"--out {target} 是一个文件夹；内置语料训练的结果是一个文件，请换个名字。")
    check_writable("--out", target)
    plain = recipe.RECIPES[name]
    changes = {field: getattr(args, name) for name, field in RECIPE_FIELDS.items() if name in given}
    wanted = replace(plain, network=config, **changes)
    check_memory(args.batch, wanted.length, config)
    if wanted != plain:
        network, history = recipe.train(corpus.training_data(), wanted)
    else:
        network, history = load_trained(name), training_history(name)
    with writing("--out", target):
        irm.save(network, target, history)
    print(f"已写出 {target}：内置语料，{history['steps']} 步，最后的损失 {history['losses'][-1][1]:.2f} dB")
    return 0


def check_memory(batch: int, length: int, config, on_cpu: bool = True) -> None:
    """一步 ``batch`` 段、每段 ``length`` 个样点，这台机器的内存明摆着放不下就拒绝，免得把机器拖进交换区。

    网络本身就放不下的也拒绝；在显卡上训练，网络先在内存里造出来。
    """
    sizes = f"--hidden {config.hidden_size}、--layers {config.num_layers}、--n-fft {config.n_fft}"
    weights = parameters(config) * (PARAMETER_BYTES if on_cpu else 4) / 1e9
    need_memory(f"{sizes}：这样的网络训练起来", weights, "请把它们改小。")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) / int(os.environ.get("WORLD_SIZE", "1"))
    need = batch * here * length * (CPU_BYTES if on_cpu else WAVE_BYTES) / 1e9
    need_memory(f"--batch {batch}：一步", need, "请把 --batch 或 --seconds 改小。")


def parameters(config) -> int:
    """网络有多少个参数：每层四个门的 W、U 与两份偏置，再加线性层。"""
    hidden, above = config.hidden_size, config.num_layers - 1
    gates = 4 * hidden * (config.input_size + hidden + 2) + above * 4 * hidden * (2 * hidden + 2)
    return gates + (config.bins * (hidden + 1) if config.head else 0)


def train_own(args, config) -> int:
    """自己的数据。"""
    from lstm_lib.training import devices, loop, sources

    data = sources.Sources(
        speech=args.speech,
        noise=args.noise,
        paired=args.paired,
        data=args.data,
        valid=sources.valid_pair(args.valid) if args.valid else None,
        valid_share=args.valid_share,
        max_bad=args.max_bad,
        speaker=args.speaker,
        leave_out=args.leave_out,
    )
    settings = loop.Settings(
        epochs=args.epochs,
        steps=args.steps,
        batch=args.batch,
        seconds=args.seconds,
        learning_rate=args.lr,
        clip=args.clip,
        snr_db=tuple(args.snr),
        level_db=tuple(args.level),
        valid_segments=args.valid_segments,
        network=config,
        loss=args.loss,
        augment=args.augment,
        average=args.average,
        carry=args.carry,
        seed=args.seed,
        init=args.init,
    )
    out = Path(args.out or "runs/irm")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} 是一个文件；用自己的数据训练时，它应是一个文件夹。")
    writer = int(os.environ.get("RANK", "0")) == 0
    if writer:
        check_writable("--out", out)
    on_cpu = devices.choose_device(args.device).type == "cpu"
    check_memory(args.batch, settings.length, config, on_cpu)
    state = loop.train(
        data, settings, out, args.device, args.amp, workers(args), args.restart, args.tensorboard
    )
    if writer:
        best = max(state["history"], key=lambda row: loop.merit(row, args.loss))
        print(
            f"最好的是第 {best['epoch']} 轮，验证 SI-SDR {best['valid_si_sdr']:.2f} dB"
            f"（不处理 {best['noisy_si_sdr']:.2f} dB），在 {out / 'best.safetensors'}"
        )
    return 0


def workers(args) -> int:
    if args.workers is not None:
        return args.workers
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(4, max(1, (os.cpu_count() or 1) // together - 1))
