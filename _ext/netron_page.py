"""把 Netron（看模型结构的工具）做成静态网页的一部分，并做出书里要看的几个模型文件。

网页文件取自本机安装的 netron 包（MIT 许可），抄下需要的几个，改掉联网的地方：
版本检查、按 IP 询问 Cookie、访问统计；再加一层 netron_zh.js：中文界面，明暗跟着书页。
改不动（例如 Netron 换了写法）就报错，不会悄悄带着联网代码上线。
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import math
import re
import tempfile
from pathlib import Path

from book_key import library_key
from filelock import FileLock

from lstm_lib.files import atomic_path, cache_dir

# 打开 .onnx 与 ncnn 的 .param 要用到的文件；其余一百多个是别的格式，不带
FILES = (
    "index.html index.js view.js browser.js base.js grapher.css grapher.js dagre.js worker.js message.js"
    " text.js protobuf.js json.js xml.js zip.js tar.js onnx.js onnx-proto.js onnx-schema.js"
    " onnx-metadata.json flatbuffers.js ncnn.js ncnn-metadata.json favicon.ico icon.png"
).split()

_LAYER = "netron_zh.js"  # 本书加的一层，在这个模块旁边

# 文件 -> [(要改的，改成什么，为什么)]
_PATCHES = {
    "index.html": [
        (r'<meta name="version" content="[^"]*">', '<meta name="version" content="0.0.0">', "不做访问统计"),
        (r'<meta name="date" content="[^"]*">\n?', "", "不检查版本的新旧"),
        (r", maximum-scale=1\.0, user-scalable=no", "", "手机上可以放大"),
        (r'(<script [^>]*src="index\.js"></script>)', rf'\1\n<script src="{_LAYER}"></script>', "中文界面与明暗"),
    ],
    "browser.js": [(r"\n *await consent\(\);", "", "不查 IP、不问 Cookie")],
    "view.js": [
        (r"this\._host\.type === 'Browser' \|\| this\._host\.type === 'Python'", "false", "不预取别的格式"),
    ],
    "ncnn.js": [(r"content = await context\.fetch\(file\);", "content = null;", "不去找 .bin，只看结构")],
    "index.js": [
        (r"\['json', 'xml', 'protobuf', 'hdf5', 'grapher', 'browser'\]",
         "['json', 'xml', 'protobuf', 'grapher', 'browser']", "不预取别的格式"),
        (r"\['base', 'text', 'flatbuffers', 'flexbuffers', 'zip',  'tar', 'python'\]",
         "['base', 'text', 'zip', 'tar']", "不预取别的格式"),
    ],
}  # fmt: skip
_LICENSE = """Netron {version}, https://github.com/lutzroeder/netron
MIT License, Copyright (c) Lutz Roeder

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

# 书里要看的模型：文件名 -> 一句话
MODELS = {
    "irm_torchscript.onnx": "TorchScript 导出器写的原图",
    "irm_simplified.onnx": "onnxsim 化简之后",
    "irm_dynamo.onnx": "dynamo 导出器写的原图",
    "irm_state.onnx": "初始状态是图的输入",
    "irm.ncnn.param": "转成 ncnn 之后",
}
_BIG = 64  # 超过这么多个数的张量不带数值：看结构用不着，页面轻


def netron_folder() -> Path:
    """本机 netron 包里放网页文件的文件夹。"""
    spec = importlib.util.find_spec("netron")
    if spec is None:
        raise FileNotFoundError("没有安装 netron；请运行 pip install netron")
    return Path(spec.submodule_search_locations[0])


def copy_site(folder) -> list[Path]:
    """把改好的 Netron 网页抄到 ``folder``；内容没变的文件不重写。返回写好的全部路径。"""
    source, folder = netron_folder(), Path(folder)
    version = importlib.metadata.version("netron")
    written = [_write(folder / "LICENSE.txt", _LICENSE.format(version=version).encode())]
    written.append(_write(folder / _LAYER, Path(__file__).with_name(_LAYER).read_bytes()))
    for name in FILES:
        path = source / name
        if not path.is_file():
            raise FileNotFoundError(f"netron {version} 里没有 {name}；请核对 _ext/netron_page.py 的文件清单")
        content = path.read_bytes()
        if name in _PATCHES:
            content = _patch(name, content.decode(), version).encode()
        elif name == "onnx-metadata.json":
            content = _needed_operators(content)
        written.append(_write(folder / name, content))
    return written


def _patch(name, text, version):
    for pattern, replacement, reason in _PATCHES[name]:
        text, count = re.subn(pattern, replacement, text)
        if not count:
            raise ValueError(
                f"netron {version} 的 {name} 里找不到要改的地方（{reason}）；"
                "请核对 _ext/netron_page.py 的 _PATCHES，或装回 netron 9.3"
            )
    return text


def _needed_operators(content):
    """算子说明 5.6 MB，只留书里出现的算子。"""
    used = set(
        "LSTM Sigmoid Squeeze Unsqueeze Transpose Constant Shape Gather Concat Expand Slice Reshape"
        " ConstantOfShape Gemm MatMul Add Identity Mul Cast".split()
    )
    kept = [entry for entry in json.loads(content) if entry.get("name") in used]
    if not any(entry["name"] == "LSTM" for entry in kept):
        raise ValueError("netron 的 onnx-metadata.json 里没有 LSTM；格式变了，请核对 _ext/netron_page.py")
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()


def _write(path, content):
    if not (path.is_file() and path.read_bytes() == content):
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return path


def write_models(folder) -> list[Path]:
    """做出 ``MODELS`` 里的模型文件：结构与书中网络相同，大张量不带数值。

    导出、化简、转换要好几秒，所以做好的一份留在缓存里；程序、依赖的版本一变就另做。
    """
    kept = cache_dir() / f"netron-{_models_key()}"
    with FileLock(kept.with_suffix(".lock")):
        if not all((kept / name).is_file() for name in MODELS):
            for name, content in _models().items():
                _write(kept / name, content)
    return [_write(Path(folder) / name, (kept / name).read_bytes()) for name in MODELS]


def _models_key() -> str:
    """模型由什么决定：导出与转换的代码、网络的定义、各转换器的版本。"""
    root = Path(__file__).resolve().parent.parent
    code = library_key(root, ("lstm_lib/formats", "lstm_lib/enhance", "_ext/netron_page.py"))
    makers = ("torch", "onnx", "onnxscript", "onnxsim", "onnxslim", "pnnx", "ncnn", "numpy")
    versions = "".join(f"{name} {importlib.metadata.version(name)};" for name in makers)
    return hashlib.sha256(f"{code} {versions}".encode()).hexdigest()[:16]


def _models():
    import torch

    from lstm_lib.enhance.irm import DOCUMENT, IRMNetwork
    from lstm_lib.formats import ncnn_run, onnx_graph

    torch.manual_seed(0)
    network = IRMNetwork(DOCUMENT).eval()
    x, zero = torch.zeros(1, 10, 256), torch.zeros(1, 1, 257)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        paths = {name: folder / name for name in MODELS}
        onnx_graph.export(network, (x,), paths["irm_torchscript.onnx"])
        onnx_graph.simplify(paths["irm_torchscript.onnx"], paths["irm_simplified.onnx"])
        onnx_graph.export(network, (x,), paths["irm_dynamo.onnx"], exporter="dynamo")
        onnx_graph.export(
            onnx_graph.with_state(network), (x, zero, zero), paths["irm_state.onnx"],
            input_names=["x", "h0", "c0"], output_names=["y", "h", "c"],
        )  # fmt: skip
        ncnn_run.convert(paths["irm_simplified.onnx"], folder / "irm.ncnn")
        return {n: _without_weights(p) if p.suffix == ".onnx" else p.read_bytes() for n, p in paths.items()}


def _without_weights(path):
    from lstm_lib.formats.onnx_graph import load_model

    model = load_model(path)
    tensors = [
        *model.graph.initializer,
        *(a.t for n in model.graph.node for a in n.attribute if a.HasField("t")),
    ]
    for tensor in tensors:
        if math.prod(tensor.dims) > _BIG:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    for node in model.graph.node:  # dynamo 把源码位置写进了节点的说明，与本机路径有关
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return model.SerializeToString(deterministic=True)
