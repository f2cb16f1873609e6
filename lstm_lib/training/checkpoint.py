"""检查点：原子写入，保留上一个，载入时验明完好；任何时候断电或 kill -9，总有一个能用。

``last.pt`` 是接着训练用的（网络与它的配置、优化器、轮次、历次结果），``previous.pt`` 是它的前一个；
``best.safetensors`` 是验证最好的网络，只有权重与配置，供 evaluate、export、enhance 使用。
"""

import hashlib
import io
import json
import os
import pickle
from pathlib import Path

import torch

from lstm_lib.enhance import irm, trained
from lstm_lib.files import atomic_path

FORMAT = "lstm_lib.checkpoint/1"
BUILTIN = "内置"  # --model 内置：第一章的网络，第一次用时当场训练
BEST, LAST, PREVIOUS = CHECKPOINTS = ("best.safetensors", "last.pt", "previous.pt")
INDEX, HELD, LOG = RECORDS = ("index.npz", "held.json", "log.csv")  # 用了哪些文件，留作验证的，每轮一行


class CheckpointError(ValueError):
    """检查点不存在、损坏或不是本书的；消息指明文件与办法。"""


def save(folder, state: dict, first: bool = False, before=lambda: None) -> None:
    """把 ``state``（张量、数、字符串、列表、字典的嵌套）写成 ``last.pt``，原来的改名为 ``previous.pt``。

    ``first``：这是一次新训练的头一个，原来的属于另一次训练，不留作退路。``before`` 是新的已经落盘、
    旧的还没动时要做的事；它出错时旧的原样。
    先在内存里拼好再写：磁盘写满时得到的是说得清的 ``OSError``，而不是序列化库内部的断言。
    """
    folder = Path(folder)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "digest": digest(state), "state": state}, buffer)
    with atomic_path(folder / LAST) as temporary:
        _write_synced(temporary, buffer.getbuffer())
        before()
        # 到这里新的已完整落盘，才挪动旧的；这两次改名之间断电，总有一个是好的
        if first:
            (folder / PREVIOUS).unlink(missing_ok=True)
        elif (folder / LAST).exists():
            os.replace(folder / LAST, folder / PREVIOUS)


def _write_synced(path, data):
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def save_best(folder, network, history: dict) -> None:
    """把网络写成 ``best.safetensors``；``history`` 是一同记下的轮次与得分。"""
    irm.save(network, Path(folder) / BEST, history)


def load(path) -> dict:
    """读回一个 ``last.pt``；只收张量与普通数据（``weights_only``），不执行文件里的任何代码。

    不存在、损坏、内容与校验和不符、含有别的内容：:class:`CheckpointError`。
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"找不到检查点 {path}；请检查路径。")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # 截断的文件不到这一步就出错；这里是不认得的函数或指令
        raise CheckpointError(
            f"{path} 里有不许执行的内容，没有读；这不是本书的检查点，或者已经损坏。"
        ) from error
    except Exception as error:  # 坏文件在 zip、pickle、张量各层各有各的异常
        raise CheckpointError(f"{path} 不是完整的检查点，读不出来（{type(error).__name__}）。") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(f"{path} 不是本书 train 命令存下的检查点。")
    if digest(payload.get("state")) != payload.get("digest"):
        raise CheckpointError(f"{path} 的内容与校验和不符，文件已损坏。")
    return payload["state"]


def load_latest(folder, say=print) -> dict | None:
    """接着训练用：``last.pt``，它坏了就用 ``previous.pt``；一个也没有时返回 None，全坏了则报错。

    坏的改名为 ``*.corrupt``，既留作证据，又不会在下次保存时顶掉好的那一个。
    """
    folder = Path(folder)
    broken = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = load(path)
        except CheckpointError as error:
            broken.append(path)
            say(f"注意：{error}")
            continue
        if broken:
            say(f"改用上一个检查点 {path}（第 {state['epoch']} 轮）；坏的改名为 {broken[0].name}.corrupt。")
            os.replace(broken[0], broken[0].with_name(broken[0].name + ".corrupt"))
        elif name == PREVIOUS:
            say(f"没有 {LAST}，用上一个检查点 {path}（第 {state['epoch']} 轮）。")
        return state
    if broken:
        names = "、".join(p.name for p in broken)
        raise CheckpointError(
            f"{folder} 里的检查点都坏了（{names}），没法接着训练；请从备份恢复，或加 --restart 从头训练。"
        )
    return None


def remove_leftovers(folder) -> None:
    """清掉被 kill -9 时写了一半的临时文件。"""
    for pattern in (".last-*.pt", ".best-*.safetensors", ".index-*.npz", ".log-*.csv", ".held-*.json"):
        for path in Path(folder).glob(pattern):
            path.unlink(missing_ok=True)


def files(model) -> list[Path]:
    """命令行 ``--model`` 的网络存在哪些文件里：训练的输出文件夹里凡是训练写的都算，别的命令不该盖掉它们。"""
    if model in (None, BUILTIN):
        return []
    path = Path(model)
    return [path / name for name in (*CHECKPOINTS, *RECORDS)] if path.is_dir() else [path]


def load_network(path) -> irm.IRMNetwork:
    """训练好的网络（推理模式）。

    ``path``：训练的输出文件夹（取其中最好的）、``best.safetensors`` 或 ``last.pt``。
    """
    path = Path(path)
    if path.is_dir():
        candidates = [path / name for name in CHECKPOINTS if (path / name).exists()]
        if not candidates:
            raise CheckpointError(
                f"{path} 里没有检查点（{BEST} 或 {LAST}）；这个文件夹是 train 命令的 --out 吗？"
            )
        path = candidates[0]
    if path.suffix != ".pt":
        return irm.load(path)
    return network_of(load(path), path)


def network(model=None, progress: bool = True) -> irm.IRMNetwork:
    """命令行 ``--model`` 说的网络（推理模式）：None 是随书发的，``"内置"`` 是第一章在内置语料上训练的。

    别的当作路径，见 :func:`load_network`。随书的文件缺了或被改过：:class:`CheckpointError`。
    """
    if model == BUILTIN:
        return trained.load_trained(progress=progress)
    if model is not None:
        return load_network(model)
    try:
        return trained.load_shipped()
    except (OSError, ValueError) as error:
        raise CheckpointError(str(error)) from error


def network_of(state: dict, path) -> irm.IRMNetwork:
    """检查点 ``state`` 里的网络（推理模式）；配置写坏了或与权重对不上：:class:`CheckpointError`，指明 ``path``。

    配置是 ``state["config"]``（JSON）；从前的检查点没有它，只在参数里记着 ``repaired``。
    """
    try:
        old = json.dumps(state["settings"].get("repaired"))
        return irm.rebuild(state.get("config"), old, state["network"], path)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} 里缺了网络的权重或训练的参数，不能用。") from error
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def digest(value) -> str:
    """嵌套数据的 SHA-256：张量按类型、形状与字节，其余按 ``repr``。"""
    digester = hashlib.sha256()
    _feed(digester, value)
    return digester.hexdigest()


def _feed(digester, value):
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        digester.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        digester.update(value.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        digester.update(f"dict {len(value)}".encode())
        for key, item in value.items():
            digester.update(repr(key).encode())
            _feed(digester, item)
    elif isinstance(value, list | tuple):
        digester.update(f"list {len(value)}".encode())
        for item in value:
            _feed(digester, item)
    else:
        digester.update(repr(value).encode("utf-8", "backslashreplace"))
