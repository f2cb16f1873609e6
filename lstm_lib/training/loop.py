"""训练循环：一轮又一轮，记录、验证、存检查点；断了用同样的参数再来，就从断处接着走。

网络、损失、一步的做法与学习率的走法，和书中内置语料的训练是同一份代码（:mod:`lstm_lib.enhance.recipe`）。
"""

import contextlib
import math
import os
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from lstm_lib.enhance.irm import IRMNetwork
from lstm_lib.enhance.loss import CLEAR_WEIGHTS, masked, si_sdr_loss, soft_stoi, stft
from lstm_lib.enhance.recipe import Carried, one_cycle, set_rate, training_step
from lstm_lib.files import os_reason, tidy_folders
from lstm_lib.training import checkpoint, sources
from lstm_lib.training.dataset import Segments, ShardedBatches, collate
from lstm_lib.training.devices import Precision, World, choose_device, device_name, joined_world
from lstm_lib.training.folders import Bad, DataError
from lstm_lib.training.records import Records, write_csv
from lstm_lib.training.settings import Settings

LOCK_SECONDS = 30
VALID_SEED = 1  # 验证片段的种子与训练错开，且不随 --seed 变：换种子的几次训练才好比较


class TrainingError(ValueError):
    """训练进行不下去；消息直接给人看。"""


def train(
    data: sources.Sources,
    settings: Settings,
    out,
    device: str = "auto",
    amp: str = "auto",
    workers: int = 0,
    restart: bool = False,
    tensorboard: str = "auto",
    say=print,
) -> dict:
    """训练；``out`` 里有没训练完的检查点就接着训练。

    参数:
        data: 数据在哪里
        settings: 决定结果的全部参数
        out: 输出文件夹
        device: auto、cpu、cuda、cuda:1 或 mps
        amp: 混合精度：auto、off、bf16 或 fp16
        workers: 几个读数据的子进程
        restart: 不理会已有的检查点，从头来；第一轮存下时才盖掉它
        tensorboard: auto、on 或 off
        say: 收一行行的话
    返回:
        最后的状态；``state["history"]`` 是各轮的结果。
    抛出:
        ValueError: 数据或参数有问题
        OSError: 磁盘有问题
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch % processes:
        raise TrainingError(
            f"--batch {settings.batch} 不能平分给 {processes} 个进程；请改成 {processes} 的倍数。"
        )
    device = choose_device(device)
    with joined_world(device) as world:
        out = Path(out)
        say = say if world.is_writer else (lambda *_: None)
        with _only_writer(out, world):
            prepared = _guarded(world, lambda: _prepare(data, out, restart, say))
            corpora = sources.shared_index(world, out / checkpoint.INDEX, prepared["fingerprint"])
            settings.settle_steps(corpora[0].seconds, prepared["state"] and prepared["state"]["settings"])
            run = _Run(settings, out, device, amp, workers, world, say, corpora, data.max_bad)
            run.again += "（去掉 --restart）" if restart else ""
            state = run.start(prepared)
            if state["history"]:  # 上次可能没来得及写，或没写成
                _guarded(world, lambda: run.write_log(state))
            with Records(out, state["history"], tensorboard if world.is_writer else "off", say) as records:
                run.loop(state, records)
            return state


@contextlib.contextmanager
def _only_writer(out, world):
    """0 号进程占住输出文件夹：两次训练写同一处，会互相毁掉检查点。

    一个检查点也没有存下就出了错：这一次新建的清单、锁与文件夹都不留。
    """
    if not world.is_writer:
        yield
        return
    made = [path for path in (out / checkpoint.INDEX, out / ".lock") if not path.exists()]
    with tidy_folders(out / ".lock"):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        try:
            # 刚被 kill -9 的训练，其读数据的子进程要过几秒才发觉并退出
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            raise TrainingError(f"另一个训练正在用 {out}；请等它结束，或换一个 --out。") from error
        try:
            yield
        except BaseException:
            lock.release()
            if not any((out / name).exists() for name in checkpoint.CHECKPOINTS):
                for path in made:
                    path.unlink(missing_ok=True)
            raise
        finally:
            lock.release()


def _guarded(world: World, work):
    """在 0 号进程上做 ``work``；它出错时所有进程一同停下，不会有谁干等。"""
    result, error = None, None
    if world.is_writer:
        try:
            result = work()
        except (ValueError, OSError) as caught:
            error = caught
    failed = world.from_writer(None if error is None else str(error))
    if error is not None:
        raise error
    if failed is not None:
        raise TrainingError(f"0 号进程停下了：{failed}")
    return world.from_writer(result)


def _prepare(data, out, restart, say):
    """扫描数据，写下清单；返回数据的指纹、坏文件与接着训练用的状态。"""
    checkpoint.remove_leftovers(out)
    # 要从头训练也先不动旧的：参数也许写错了，--init 也许就指着它
    state = None if restart else checkpoint.load_latest(out, say)
    say("扫描数据……")
    gathered = sources.gather(data, sources.load_held(out / checkpoint.HELD) if state else None)
    for line in gathered.report:
        say(line)
    if gathered.bad:
        sources.save_bad(out / "unreadable.txt", gathered.bad)
        say(f"跳过 {len(gathered.bad)} 个不能用的文件，名单在 {out / 'unreadable.txt'}：")
        for bad in gathered.bad[:5]:
            say(f"  {bad.path}：{bad.reason}")
    sources.save_index(out / checkpoint.INDEX, gathered)
    fingerprint = sources.fingerprint(gathered.train, gathered.valid)
    return {"fingerprint": fingerprint, "state": state, "bad": gathered.bad, "held": gathered.held}


def _weights(network) -> dict:
    return {k: v.detach().cpu() for k, v in network.state_dict().items()}


def merit(row: dict, loss: str) -> float:
    """一轮的好坏，越大越好：SI-SDR；兼顾可懂度的损失再加上 STOI 的那一份。"""
    return row["valid_si_sdr"] + (CLEAR_WEIGHTS[0] * row["valid_stoi"] if loss == "clear" else 0)


class _Run:
    """一次训练：网络、优化器与数据。"""

    def __init__(self, settings, out, device, amp, workers, world, say, corpora, max_bad):
        self.settings, self.out, self.device, self.world, self.say = settings, out, device, world, say
        self.precision = Precision(amp, device)
        self.train_corpus, self.valid_corpus = corpora
        self.max_bad = max_bad
        self.batches = ShardedBatches(settings.steps, settings.batch, world.rank, world.size)
        self.loader = self._loader(Segments(
            self.train_corpus, settings.length, settings.snr_db, settings.level_db, settings.seed + 2,
            settings.augment,
        ), workers, batch_sampler=self.batches)  # fmt: skip
        # 验证片段固定不变：每轮用同样的一批，得分才可比；电平不动，信噪比取训练范围
        valid = Segments(self.valid_corpus, settings.length, settings.snr_db, None, VALID_SEED)
        mine = Subset(valid, range(world.rank, settings.valid_segments, world.size))
        self.valid_loader = self._loader(mine, min(workers, 2), batch_size=settings.batch)
        torch.manual_seed(settings.seed)
        self.network = IRMNetwork(settings.network).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters())
        self.average = IRMNetwork(settings.network).to(device) if settings.average else None
        self.carried = (
            Carried(self.network, settings.carry, (world.rank, world.size)) if settings.carry else None
        )
        self.model = self.carried or self.network
        self.failures = {}
        self.again = "用同样的命令"

    def _loader(self, dataset, workers, **options):
        return DataLoader(
            dataset,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),
            **options,
        )

    # ---- 起步与接着走 ----

    def start(self, prepared) -> dict:
        """说明用什么训练；有检查点就载入，没有就从头。"""
        self.failures = {bad.path: bad.reason for bad in prepared["bad"]}
        self.reported = len(self.failures)
        self.scanned = self.train_corpus.files + self.valid_corpus.files + len(self.failures)
        together = f"，{self.world.size} 个进程" if self.world.size > 1 else ""
        self.say(f"设备：{device_name(self.device)}，{self.precision}{together}")
        state = prepared["state"]
        if state is None:
            if self.settings.init:
                self._start_from(self.settings.init)
            state = {"epoch": 0, "history": [], "best": None, "noisy": None}
        else:
            self._resume(state, prepared["fingerprint"])
        state["fingerprint"] = prepared["fingerprint"]
        self.held = prepared["held"]
        if self.average and state["epoch"] == 0:
            self.average.load_state_dict(self.network.state_dict())
        self.judged = self.average or self.network
        if self.world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.model, device_ids=ids)
        return state

    def _start_from(self, path):
        given = checkpoint.load_network(path)
        if given.config != self.network.config:
            raise TrainingError(
                f"--init {path} 与要训练的不是同一种网络：它是 {given.config}；要训练的是 {self.network.config}。"
                "看 --hidden、--layers、--n-fft、--hop 与 --document。"
            )
        self.network.load_state_dict(given.state_dict())

    def _resume(self, state, fingerprint):
        given = checkpoint.network_of(state, self.out / checkpoint.LAST)
        changed = self.settings.changes_from(state["settings"], given.config)
        if changed:
            raise TrainingError(
                f"{self.out} 里是用另一组参数训练到第 {state['epoch']} 轮的：{'；'.join(changed)}。"
                "请改回原来的参数，或换一个 --out，或加 --restart 丢开它从头训练。"
            )
        self.network.load_state_dict(state.get("moving", given.state_dict()))
        if self.average:
            self.average.load_state_dict(given.state_dict())
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.scaler.load_state_dict(state["scaler"])
        if state["epoch"] < self.settings.epochs:
            self.say(f"接着训练：第 {state['epoch']} 轮已完成，从第 {state['epoch'] + 1} 轮继续。")
        if "config" not in state:
            self.say("注意：检查点是旧版程序存的，学习率的走法从前不同，结果会与一气呵成的训练有出入。")
        if fingerprint != state["fingerprint"]:
            self.say("注意：数据与上次不同（文件增减或变了），结果会与一气呵成的训练有出入。")

    # ---- 循环 ----

    def loop(self, state, records) -> None:
        """训练到 ``settings.epochs`` 轮；每轮结束存检查点。"""
        settings = self.settings
        if state["epoch"] >= settings.epochs:
            self.say(f"{settings.epochs} 轮早已训练完；要从头再来就加 --restart。")
            return
        if state["noisy"] is None:
            state["noisy"] = self.validate(None)["valid_si_sdr"]
            self.say(f"验证集 {settings.valid_segments} 段，不处理时 SI-SDR {state['noisy']:.2f} dB")
        for epoch in range(state["epoch"], settings.epochs):
            started = time.perf_counter()
            with _explained():
                loss = self.train_epoch(epoch)
                scores = self.validate(self.judged)
            self._share_failures()
            if not all(map(math.isfinite, (loss, *scores.values()))):
                raise TrainingError(
                    f"第 {epoch + 1} 轮的损失成了 {loss}，训练已发散；检查点仍停在第 {epoch} 轮。"
                    "请把 --lr 调小，换一个 --out 再试。"
                )
            row = {
                "epoch": epoch + 1,
                "step": (epoch + 1) * settings.steps,
                "train_loss": loss,
                **scores,
                "noisy_si_sdr": state["noisy"],
                "learning_rate": self._rate((epoch + 1) * settings.steps - 1)[0],
                "seconds": round(time.perf_counter() - started, 3),
            }
            self._save(state, row)
            records.add(row, settings.epochs, is_best=state["best"] == merit(row, settings.loss))

    def train_epoch(self, epoch: int) -> float:
        """一轮训练，返回各步全局批次损失的平均。"""
        settings, self.batches.epoch = self.settings, epoch
        self.model.train()
        if self.carried:  # 每轮从零状态开始、种子只看轮数：断了再接，与一气呵成的相同
            self.carried.reset(settings.seed + 3 + epoch)
        # 在设备上累加，免得每步都等显卡；CPU 上用 float64，苹果显卡没有 float64
        total = torch.zeros(
            (), device=self.device, dtype=torch.float64 if self.device.type == "cpu" else None
        )
        bar = tqdm(
            self.loader, desc=f"第 {epoch + 1} 轮", unit="步", leave=False, mininterval=0.5,
            disable=None if self.world.is_writer else True,
        )  # fmt: skip
        for step, (noisy, clean, failed, problem) in enumerate(bar, epoch * settings.steps):
            self._count(failed, problem)
            set_rate(self.optimizer, *self._rate(step))
            clean, noisy = clean.to(self.device), noisy.to(self.device)
            loss = training_step(
                self.model, self.optimizer, clean, noisy, settings.network, settings.clip,
                self.precision.autocast, self.precision.scaler, settings.loss,
            )  # fmt: skip
            total += loss
            if self.average:
                self._follow(step)
            if step % 10 == 0:
                bar.set_postfix_str(f"损失 {loss.item():.2f} dB")
        return float(self.world.total(total)) / settings.steps / self.world.size

    @torch.no_grad()
    def _follow(self, step):
        """滑动平均的权重跟一步；开头跟得快，免得老记着随机的起点。"""
        keep = min(self.settings.average, (1 + step) / (10 + step))
        for slow, fast in zip(self.average.parameters(), self.network.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)

    def _rate(self, step):
        return one_cycle(step, self.settings.total_steps, self.settings.learning_rate)

    @torch.no_grad()
    def validate(self, model) -> dict:
        """验证集上平均的 SI-SDR（dB）与 STOI（近似，见 :func:`soft_stoi`）；``model`` 为 None 时量的是带噪语音本身。"""
        total, config = torch.zeros(3, dtype=torch.float64), self.settings.network
        if model is not None:
            model.eval()
        for noisy, clean, failed, problem in self.valid_loader:
            self._count(failed, problem)
            estimate = noisy
            if model is not None:
                clean, noisy = clean.to(self.device), noisy.to(self.device)
                estimate = masked(model, noisy, config, self.precision.autocast)
            spectra = (stft(w, config.n_fft, config.hop_length) for w in (clean, estimate))
            stoi = soft_stoi(*spectra, config.hop_length).sum().item()
            total += torch.tensor([-si_sdr_loss(clean, estimate).item() * len(noisy), stoi, len(noisy)])
        # gloo 什么都能加，nccl 只加显卡上的
        total = self.world.total(total.to(self.device) if self.device.type == "cuda" else total).tolist()
        return {"valid_si_sdr": total[0] / total[2], "valid_stoi": total[1] / total[2]}

    # ---- 训练途中读不了的文件 ----

    def _count(self, failed, problem):
        for path, reason in failed:
            self.failures.setdefault(path, reason)
        if problem:
            raise DataError(problem)
        self._check_failures()

    def _check_failures(self):
        if len(self.failures) > self.max_bad * self.scanned:
            path, reason = list(self.failures.items())[-1]
            raise DataError(
                f"训练途中发现 {len(self.failures)} 个文件读不了（共 {self.scanned} 个，超过 --max-bad 的 "
                f"{self.max_bad:.1%}），最近一个是 {path}：{reason} "
                f"检查点仍在 {self.out}，修好后用同样的命令接着训练。"
            )

    def _share_failures(self):
        before = len(self.failures)
        for others in self.world.gather(self.failures):
            self.failures.update(others)
        if self.world.is_writer and len(self.failures) > self.reported:
            new = list(self.failures.items())[self.reported :]
            sources.save_bad(self.out / "unreadable.txt", [Bad(*item) for item in self.failures.items()])
            self.say(
                f"注意：又有 {len(new)} 个文件读不了，已换别的文件；名单在 {self.out / 'unreadable.txt'}"
            )
        self.reported = len(self.failures)
        if len(self.failures) > before:
            self._check_failures()

    # ---- 存 ----

    def _save(self, state, row) -> None:
        value = merit(row, self.settings.loss)
        is_best = state["best"] is None or value > state["best"]
        state.update(
            epoch=row["epoch"],
            history=[*state["history"], row],
            best=value if is_best else state["best"],
            settings=self.settings.plain(),
            config=self.settings.network.to_json(),
            network=_weights(self.judged),
            **({"moving": _weights(self.network)} if self.average else {}),
            optimizer=self.optimizer.state_dict(),
            scaler=self.precision.scaler.state_dict(),
        )
        _guarded(self.world, lambda: self._write(state, row, is_best))

    def _write(self, state, row, is_best):
        def before():  # 与检查点一同换上；最好的网络先写，断在中间时重训这一轮会再写一次
            if is_best:
                checkpoint.save_best(self.out, self.judged, {"epoch": row["epoch"], **row})
            sources.save_held(self.out / checkpoint.HELD, self.held)

        done = row["epoch"] - 1
        try:
            checkpoint.save(self.out, state, first=done == 0, before=before)
        except OSError as error:
            if done:
                rest = f"原来的检查点完好（第 {done} 轮），腾出空间后{self.again}接着训练。"
            elif (self.out / checkpoint.LAST).exists():
                rest = "上一次训练的检查点没有动；腾出空间后用同样的命令从头训练。"
            else:
                rest = "还没有检查点，腾出空间后要从头训练。"
            raise TrainingError(
                f"第 {row['epoch']} 轮的检查点写不进 {self.out}：{os_reason(error)}。{rest}"
            ) from error
        self.write_log(state)

    def write_log(self, state) -> None:
        """由各轮的结果重写 log.csv。"""
        try:
            write_csv(self.out / checkpoint.LOG, state["history"])
        except OSError as error:
            raise TrainingError(
                f"第 {state['epoch']} 轮的检查点已存好，只有 log.csv 没写成：{os_reason(error)}；"
                f"腾出空间后{self.again}补上。"
            ) from error


@contextlib.contextmanager
def _explained():
    """把 torch 的两种运行时错误说成人话：显存不够，读数据的子进程没了。"""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError("显存不够；请把 --batch 或 --seconds 改小，或用 --device cpu。") from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            "读数据的子进程意外退出，多半是内存不够被系统杀掉了；"
            "请把 --workers 改小，再用同样的命令接着训练。"
        ) from error
