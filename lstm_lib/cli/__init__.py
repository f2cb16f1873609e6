"""命令行：每个子命令一个模块，提供 ``add_parser(subparsers)`` 与 ``run(args)``。"""

import argparse
import contextlib
import errno
import importlib
import os
import pkgutil
import re
import sys
import tempfile
from pathlib import Path

from lstm_lib.files import SHOW_BYTES

# argparse 的报错只有英文，逐条换成中文
ARGPARSE_MESSAGES = (
    (r"the following arguments are required: (.*)", r"缺少参数：\1"),
    (r"unrecognized arguments: (.*)", r"不认识的参数：\1"),
    (r"ambiguous option: (.*) could match (.*)", r"选项 \1 不明确，可能是 \2"),
    (r"argument (.*): invalid choice: (.*) \(choose from (.*)\)", r"\1 不能是 \2；可选：\3"),
    (r"argument (.*): expected (?:one|at least one) argument", r"\1 后面要跟一个值"),
    (r"argument (.*): expected (\d+) arguments", r"\1 后面要跟 \2 个值"),
    (r"argument (.*): invalid int value: (.*)", r"\1 要的是整数，不能是 \2"),
    (r"argument (.*): invalid float value: (.*)", r"\1 要的是数，不能是 \2"),
    (r"argument (.*): invalid \S+ value: (.*)", r"\1 的值不对：\2"),
    (r"argument (.*): not allowed with argument (.*)", r"\1 不能与 \2 同时用"),
    (r"argument (.*): ignored explicit argument (.*)", r"\1 后面不该有值：\2"),
    (r"argument (.*?): (.*)", r"\1：\2"),
)


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class UserError(Exception):
    """使用者能改正的错误；消息直接给人看，指明文件或参数以及怎么办。"""


def size_text(count: int) -> str:
    """字节数写成人看的：``1.06 MB``、``3.2 KB``、``214 字节``。"""
    if count < 1000:
        return f"{count} 字节"
    return f"{count / 1e3:.1f} KB" if count < 999_950 else f"{count / 1e6:.2f} MB"


def check_writable(option: str, path) -> None:
    """费时的活动手之前：``path``（文件或文件夹，可以还不存在）写不了就抛 :class:`UserError`。

    真的写一下才作数：root 看权限位总是能写，只读的文件系统却不看是谁。
    """
    from lstm_lib.files import os_reason

    path = Path(path)
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{option} {path}：{os_reason(bare(error))}；请换一个路径。") from error
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{option} {path} 不是普通的文件（是设备、管道之类）；请换一个路径。")
    folder = next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        # /proc 那样不让建文件的地方，报的是“不存在”
        denied = error.errno in {errno.EACCES, errno.EPERM, errno.ENOENT}
        why = (
            f"没有权限在 {folder} 里写文件" if denied else f"{folder} 里写不了文件，{os_reason(bare(error))}"
        )
        raise UserError(f"{option} {path}：{why}；请换一个路径。") from error


@contextlib.contextmanager
def writing(option: str, path):
    """写 ``path`` 时的 ``OSError`` 换成 :class:`UserError`，说使用者给的名字，不说他不认得的临时文件。"""
    from lstm_lib.files import os_reason

    try:
        yield
    except OSError as error:
        raise UserError(f"{option} {path} 写不了：{os_reason(bare(error))}") from error


def bare(error: OSError) -> OSError:
    """去掉文件名的同一个错。"""
    return OSError(error.errno, error.strerror) if error.errno is not None else error


class ChineseHelpFormatter(argparse.RawDescriptionHelpFormatter):
    def add_usage(self, usage, actions, groups, prefix=None):
        super().add_usage(usage, actions, groups, "用法：" if prefix is None else prefix)


class ChineseParser(argparse.ArgumentParser):
    """帮助与报错都用中文的参数解析器。"""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", ChineseHelpFormatter)
        super().__init__(*args, add_help=False, **kwargs)
        self._positionals.title = "位置参数"
        self._optionals.title = "选项"
        self.add_argument("-h", "--help", action="help", help="显示本帮助并退出")

    def parse_known_args(self, args=None, namespace=None):
        self.given = list(sys.argv[1:] if args is None else args)
        # 终端的编码写不出汉字时以问号代替，文件名里认不出的字节写成 \xd6，不因为一句话就崩溃
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors=SHOW_BYTES)
        return super().parse_known_args(args, namespace)

    def exit(self, status=0, message=None):
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            silence_stdout()
        super().exit(status, message)

    def error(self, message):
        for pattern, chinese in ARGPARSE_MESSAGES:
            if re.fullmatch(pattern, message, re.DOTALL):
                message = re.sub(pattern, chinese, message, flags=re.DOTALL)
                break
        self.print_usage(sys.stderr)
        # 「-a.wav」会被当成选项
        names = [
            a for a in self.given if a[:1] == "-" and (os.path.lexists(a) or re.search(r"\.[A-Za-z]", a))
        ]
        hint = f"以 - 开头的文件名要写成 ./{names[0]}。\n" if names else ""
        self.exit(2, f"错误：{message}\n{hint}用 {self.prog} --help 看用法。\n")


def main(argv=None) -> int:
    """入口；返回退出码：0 成功，1 使用者能改正的错误，2 参数写错，130 被中断，141 下游不读了。"""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # 一开始就关着的（>&-）：没有地方说话，事情照做
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    try:
        code = dispatch(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()  # 写不出去现在就知道，别等到解释器退出
        return code
    except BrokenPipeError:
        if not reader_left():
            raise
        return 141
    except (UserError, OSError) as error:
        cause = error.__cause__ if isinstance(error, UserError) else error
        if isinstance(cause, BrokenPipeError) and reader_left():
            return 141
        full = isinstance(cause, OSError) and cause.errno in NO_ROOM and cause.filename is None
        why = stdout_failure() if full else ""
        if not why and not isinstance(error, UserError):
            raise
        print(f"错误：{why or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("已中断。", file=sys.stderr)
        return 130


def make_parser() -> tuple[ChineseParser, dict[str, ChineseParser], dict[str, str]]:
    """（整个命令行的解析器，{子命令: 它的解析器}，{用不了的子命令: 缺的包}）；接口页也照它列出选项。"""
    parser = ChineseParser(prog="python -m lstm_lib", description="《LSTM 实现与优化》的命令行工具")
    subparsers = parser.add_subparsers(
        dest="command", metavar="命令", required=True, parser_class=ChineseParser
    )
    missing = {}
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    for name in names:
        if name.startswith("_"):  # 各子命令共用的，不是子命令
            continue
        try:
            importlib.import_module(f"{__name__}.{name}").add_parser(subparsers)
        except ModuleNotFoundError as error:  # 依赖没有装全，doctor 也得能用
            if (error.name or "lstm_lib").startswith("lstm_lib"):
                raise
            missing[name] = error.name
    return parser, subparsers.choices, missing


def dispatch(argv) -> int:
    """解析命令行，运行其中的子命令。"""
    parser, commands, missing = make_parser()
    if argv and argv[0] in missing:
        raise UserError(
            f"{argv[0]} 要用的 {missing[argv[0]]} 没有安装；请运行 python -m lstm_lib doctor，看还缺什么。"
        )
    args, unknown = parser.parse_known_args(argv)
    if "" in argv:
        parser.error("有一个参数是空的，多半是脚本里的变量没有定义")
    if unknown:  # argparse 会让顶层来报，用法就不是这个子命令的了
        commands[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return args.run(args) or 0


def reader_left() -> bool:
    """标准输出接的是管道，而另一头（如 ``head``）已经不读了；是就改接空设备。"""
    try:
        print(flush=True)
    except BrokenPipeError:
        silence_stdout()
        return True
    return False


def stdout_failure() -> str:
    """标准输出写不下去（接到了写满的磁盘、/dev/full）时怎么说，并改接空设备；写得下去是空串。"""
    from lstm_lib.files import os_reason

    try:
        print(flush=True)
    except OSError as error:
        silence_stdout()
        return f"标准输出写不下去：{os_reason(bare(error))}；请把它接到别处。命令要写的文件不受影响。"
    return ""


def silence_stdout() -> None:
    """标准输出改接空设备：没写出去的留在缓冲里，解释器退出时还会再写一次。"""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
