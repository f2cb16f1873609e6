"""训练记录：终端、CSV、TensorBoard。"""

import csv
from pathlib import Path

from lstm_lib.files import atomic_path

COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "valid_si_sdr",
    "valid_stoi",
    "noisy_si_sdr",
    "learning_rate",
    "seconds",
)


class RecordError(ValueError):
    """记录写不了；消息说明怎么办。"""


class Records:
    """每轮一行，写到终端与 TensorBoard；``history`` 是接着训练时已有的行。"""

    def __init__(self, out, history, tensorboard: str = "auto", say=print):
        self.out, self.say, self.done = Path(out), say, len(history)
        self.board = self._open_board(tensorboard)

    def _open_board(self, choice):
        if choice == "off":
            return None
        try:
            str(self.out).encode("utf-8")
        except UnicodeEncodeError as error:
            hint = f"TensorBoard 写不了 {self.out}：名字不是 UTF-8"
            if choice == "on":
                raise RecordError(f"{hint}；请给 --out 换一个名字，或去掉 --tensorboard。") from error
            self.say(f"{hint}；只写其中的 log.csv。")
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            hint = "没有安装 tensorboard（pip install tensorboard）"
            if choice == "on":
                raise RecordError(f"{hint}；装好再来，或去掉 --tensorboard。") from error
            self.say(f"{hint}，只写 {self.out / 'log.csv'}。")
            return None
        # 断点之后、没来得及存检查点的那些点作废
        return SummaryWriter(self.out / "tensorboard", purge_step=self.done + 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._board(lambda board: board.close())

    def add(self, row: dict, epochs: int, is_best: bool) -> None:
        """记下一轮。"""
        gain = row["valid_si_sdr"] - row["noisy_si_sdr"]
        self.say(
            f"第 {row['epoch']}/{epochs} 轮  训练损失 {row['train_loss']:.3f}  "
            f"验证 SI-SDR {row['valid_si_sdr']:.2f} dB（提高 {gain:.2f}）  "
            f"STOI {row['valid_stoi']:.3f}"
            f"{'  最好' if is_best else ''}  用时 {row['seconds']:.1f} 秒"
        )
        self._board(lambda board: self._plot(board, row))

    def _plot(self, board, row):
        for name in ("train_loss", "valid_si_sdr", "valid_stoi", "learning_rate"):
            board.add_scalar(name, row[name], row["epoch"])
        board.flush()

    def _board(self, work):
        if self.board is None:
            return
        try:
            work(self.board)
        except OSError as error:
            self.say(f"注意：TensorBoard 的记录写不了（{error}），不再写它；训练照常。")
            self.board = None


def write_csv(path, rows) -> None:
    """把各轮的结果写成 CSV；每次整个重写（原子地），断点续训后恰好是每轮一行，不重不漏。"""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
