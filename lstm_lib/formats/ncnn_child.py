"""在单独的进程里跑一次 ncnn：它遇到接错的线会连同整个进程一起崩溃。由 ``ncnn_check`` 调用，不导入本书别的部分。

命令行：.param、.bin、输入的 .npz、要写的输出 .npz；标准输出逐行写正在算的数据块，崩溃时最后一行就是那里。
"""

import sys
from typing import Any


def main(param: str, weights: str, inputs: str, outputs: str) -> None:
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(param) or net.load_model(weights):
        sys.exit("ncnn 载入失败")
    extractor = net.create_extractor()
    extractor.set_light_mode(False)  # 留着中间结果：逐块取，才知道崩在哪里
    with np.load(inputs) as arrays:
        held = {name: arrays[name] for name in arrays.files if name != "?"}
        wanted = [str(name) for name in arrays["?"]]
    for name, array in held.items():
        extractor.input(name, ncnn.Mat(np.ascontiguousarray(array)).clone())
    results: dict[str, Any] = {}
    for name in wanted:
        print(name, flush=True)
        code, mat = extractor.extract(name)
        if code:
            sys.exit(f"返回码 {code}")
        if name in net.output_names():
            results[name] = np.array(mat)
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
