"""python -m lstm_lib export：把训练好的网络导出成 ONNX、ncnn 或本书的二进制文件。"""

from pathlib import Path

from lstm_lib.cli import UserError, check_writable, size_text
from lstm_lib.files import os_reason

DESCRIPTION = """\
把训练好的网络导出给别的引擎。先用几段输入与 torch 核对，对上了才写文件；对不上就什么也不写。

  onnx  一个 .onnx：x (1, T, 256) → mask (1, T, 257)，T 可变；已用 onnxsim 化简
  ncnn  一个 .param、一个 .bin：in0 (T, 256) → out0 (T, 257)
  bin   一个 .lstm：整个网络连同 STFT 的约定，给本书的 C 程序用（python -m lstm_lib build）；
        加 --fp16 权重存成半精度，文件小一半；加 --int8 逐行量化，小到约四分之一。
        格式见 lstm_lib.formats.network_file

上面写的是书中网络的尺寸；用 train 的 --hidden、--layers、--n-fft 训练的网络，按它自己的来。

--out 的扩展名可以不写；缺的文件夹会建好，同名的文件会被盖掉，但别的 ncnn 模型的 .bin 不会。
加 --streaming 时，onnx 与 ncnn 的状态 h、c 也是图的输入输出，一次一帧；有几层，状态就有几行。"""

EPILOG = """\
例子：
  python -m lstm_lib export 训练结果 --to onnx --out 模型.onnx
  python -m lstm_lib export 训练结果 --to ncnn --out 模型 --streaming
  python -m lstm_lib export --to bin --int8

退出码：0 成功；1 检查点或参数有问题、核对不符，错误信息会说明；2 命令行写错；130 被 Ctrl-C 中断。"""


def add_parser(subparsers):
    parser = subparsers.add_parser(
        "export", help="导出成 ONNX、ncnn 或二进制权重", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument(
        "checkpoint",
        metavar="检查点",
        nargs="?",
        help="train 的输出文件夹或其中的检查点；内置 是第一章的；默认用随书的网络",
    )
    parser.add_argument(
        "--to", required=True, choices=("onnx", "ncnn", "bin"), metavar="格式", help="onnx、ncnn 或 bin"
    )
    parser.add_argument("--out", metavar="文件", help="输出的文件名（默认 irm.onnx、irm.param、irm.lstm）")
    parser.add_argument("--streaming", action="store_true", help="状态作为输入输出，供逐帧运行")
    parser.add_argument("--fp16", action="store_true", help="权重存成 fp16（只用于 ncnn 与 bin），文件小一半")
    parser.add_argument("--int8", action="store_true", help="权重存成 int8（只用于 bin），文件小到约四分之一")
    parser.set_defaults(run=run)


def run(args) -> int:
    from lstm_lib.training import checkpoint, export

    out = Path(args.out or "irm")
    if out.is_dir():
        raise UserError(f"--out {out} 是一个已有的文件夹；请给出文件名，例如 {out / 'irm'}。")
    check_writable("--out", out)
    try:
        network = checkpoint.network(args.checkpoint)
        files, worst = export.export(
            network, args.to, out, args.streaming, args.fp16, args.int8, origin=args.checkpoint
        )
    except OSError as error:
        raise UserError(os_reason(error)) from error
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"与 torch 核对：最大差 {worst:.1e}")
    for file in files:
        print(f"已写出 {file}（{size_text(file.stat().st_size)}）")
    return 0
