"""用什么算：设备、混合精度、分布式。"""

import contextlib
import datetime
import os
import platform
from dataclasses import dataclass

import torch
import torch.distributed as dist


class DeviceError(ValueError):
    """要的设备或精度这台机器没有；消息说明有什么。"""


@dataclass(frozen=True)
class World:
    """这个进程在分布式训练里的位置；单机单进程是 rank 0、world 1。"""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_writer(self) -> bool:
        """只有 0 号进程写文件、打印。"""
        return self.rank == 0

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """各进程的张量相加。"""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def from_writer(self, value):
        """0 号进程的 Python 对象，发给所有进程。"""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value) -> list:
        """各进程的 Python 对象，收成一列。"""
        if self.size == 1:
            return [value]
        boxes = [None] * self.size
        dist.all_gather_object(boxes, value)
        return boxes


@contextlib.contextmanager
def joined_world(device: torch.device):
    """由 torchrun 启动时加入进程组（CPU 用 gloo，NVIDIA 显卡用 nccl），离开时退出。"""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device.type == "mps":
        raise DeviceError("苹果显卡不支持分布式训练；请去掉 torchrun，或加 --device cpu。")
    backend = "nccl" if device.type == "cuda" else "gloo"
    # 0 号进程扫描大语料时别的进程在等，所以放宽时限
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=2))
    try:
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()


def choose_device(name: str = "auto") -> torch.device:
    """auto 依次取 NVIDIA 显卡、苹果显卡、CPU；多进程时每个进程一块显卡。"""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"--device {name} 不认识；可用 auto、cpu、cuda、cuda:1、mps。") from error
    available = {"cpu": True, "cuda": has_cuda, "mps": has_mps}
    if not available.get(device.type, False):
        have = "、".join(kind for kind, present in available.items() if present)
        raise DeviceError(f"--device {name} 用不了：这台机器上的 torch 只看得到 {have}。")
    if device.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise DeviceError(
                f"要用第 {index} 块显卡，可只有 {torch.cuda.device_count()} 块；"
                "请把 --nproc-per-node 或 --device 的编号改小。"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """设备的名字，给人看。"""
    if device.type == "cuda":
        return f"CUDA（{torch.cuda.get_device_name(device)}）"
    if device.type == "mps":
        return "MPS（苹果显卡）"
    return f"CPU（{platform.machine()}，{torch.get_num_threads()} 线程）"


class Precision:
    """混合精度：网络在半精度里算，STFT、损失、权重仍是 float32。

    auto：NVIDIA 显卡上用 bf16（老卡用 fp16 加损失缩放），别的设备上这个小网络没有好处，不用。
    """

    def __init__(self, name: str, device: torch.device):
        if name == "auto":
            name = "off"
            if device.type == "cuda":
                name = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        if name == "fp16" and device.type != "cuda":
            raise DeviceError("--amp fp16 只用于 NVIDIA 显卡；别的设备请用 --amp bf16 或 off。")
        self.name, self.device = name, device
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def __str__(self):
        return {"off": "float32", "bf16": "混合精度 bf16", "fp16": "混合精度 fp16"}[self.name]

    def autocast(self):
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)
