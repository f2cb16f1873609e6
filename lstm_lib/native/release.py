"""两个文件的发行版：把 C 源码合成 ``enhancer.c`` 与 ``enhancer.h``，只要一个 C 编译器就能用。

各级别共用一份源码：``enhancer.c`` 把自己包含几次，每次换一个指令集（GCC 用 ``#pragma GCC target``，
Clang 用 ``#pragma clang attribute``）、换一组名字；块的宽度也是这样，一个宽度包含一次。
"""

import re
from pathlib import Path

from lstm_lib.native.build import HERE

# 级别 → (要什么处理器、多新的编译器, GCC 与 Clang 的写法)
TARGETS = {
    "avx2": ("defined(__x86_64__)", "avx2,fma,f16c", "avx2,fma,f16c"),
    "avx512": (
        "defined(__x86_64__)",
        "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512",
        "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    ),
    "neon_dot": ("defined(__aarch64__)", "arch=armv8.2-a+dotprod", "dotprod"),
    "wasm": ("defined(__wasm_simd128__)", "simd128", "simd128"),
    "wasm_relaxed": ("defined(__wasm_relaxed_simd__)", "relaxed-simd", "relaxed-simd"),
}
LOCAL, SYSTEM = r'^#include "(\w+\.h)"\n', r"^#include <\w+\.h>\n"
RULE = "/* " + "=" * 16 + " {} " + "=" * 16 + " */\n"

HEADER_GUARD = "#ifndef ENHANCER_H\n#define ENHANCER_H\n#include <stdint.h>\n"
OPENING = """\
/* 语音增强器：整个程序都在这一个文件里，接口与用法见 enhancer.h。
 *
 *     cc -std=gnu11 -O3 enhancer.c example.c -lm
 *
 * GCC 8 或 Clang 14 起都行（AArch64 上 Clang 要 16），不用别的选项：x86-64 的 AVX2、AVX-512 与 AArch64 的点积指令都编译进来，运行时才挑。
 * 32 位 ARM 请加 -mfpu=neon-vfpv4，否则没有 NEON，慢许多。不要加 -ffast-math：NaN 的检查会被编译器删掉。
 *
 * 本文件把自己包含若干次：ENHANCER_BLOCK 那一遍是一种宽度的块，ENHANCER_LEVEL 那一遍是一个指令集级别，
 * 两样都没有定义的是主体。由 python -m lstm_lib build --source 生成；要改请改 lstm_lib/native/ 里的源码。 */
"""
SETTINGS = """\
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "不要用 -ffast-math、-ffinite-math-only 编译：NaN 与无穷的检查会被删掉"
#endif
/* 乘与加要不要合成一条指令，源码里写明（见 fma_4），不由编译器挑：换个编译器，结果也不差一位。 */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#pragma GCC diagnostic ignored "-Wpsabi" /* 512 位的参数只在内联的函数之间传，不关 ABI 的事 */
#endif
"""
EXAMPLE = """\
/* 说明：用增强器的最短的完整程序。从标准输入读 16 位裸 PCM，一次一个帧移，写到标准输出。
 *     cc -std=gnu11 -O3 enhancer.c example.c -lm -o example
 *     ./example irm.lstm < 带噪.pcm > 增强.pcm
 * 输出比输入晚 latency - hop 个样点；这里没有去掉，也没有补最后那一截；
 * 完整的程序用 python -m lstm_lib build --target native 编译。 */
#include "enhancer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments) {
    static unsigned char model[16 << 20]; /* 模型文件，最多 16 MB */
    enhancer_error error;
    FILE *file = count == 2 ? fopen(arguments[1], "rb") : NULL;
    if (!file) return fprintf(stderr, "用法：example 模型 < 输入.pcm > 输出.pcm\\n"), 2;
    const size_t bytes = fread(model, 1, sizeof model, file);
    if (bytes == sizeof model) return fprintf(stderr, "模型太大：把 16 << 20 改大\\n"), 1;
    enhancer *e = enhancer_open(model, (int64_t)bytes, NULL, &error);
    if (!e)
        return fprintf(stderr, "第 %lld 字节：%s\\n", (long long)error.offset, enhancer_message(error.code)), 1;
    const size_t hop = (size_t)enhancer_info(e).hop;
    int16_t *pcm = malloc(hop * sizeof *pcm);
    float *wave = malloc(hop * sizeof *wave);
    while (pcm && wave && fread(pcm, sizeof *pcm, hop, stdin) == hop) {
        for (size_t k = 0; k < hop; k++) wave[k] = (float)pcm[k] / 32768;
        enhancer_process(e, wave, wave, 1, &error);
        for (size_t k = 0; k < hop; k++)
            pcm[k] = (int16_t)lrintf(fmaxf(-32768, fminf(32767, wave[k] * 32768)));
        fwrite(pcm, sizeof *pcm, hop, stdout), fflush(stdout);
    }
    free(pcm), free(wave), fclose(file), enhancer_close(e);
    return 0;
}
"""


def release() -> dict[str, str]:
    """``{文件名: 内容}``：enhancer.c、enhancer.h、example.c。"""
    return {"enhancer.c": source(), "enhancer.h": header(), "example.c": EXAMPLE}


def header() -> str:
    """对外的头文件：错误码、级别、接口；内部的结构留在 enhancer.c 里。"""
    text = read("enhancer.h")
    comment = text[: text.index("#ifndef")].replace("（见 model.h）", "（见下面的 LSTM_…）")
    version = next(line for line in text.splitlines() if line.startswith("#define ENHANCER_VERSION"))
    parts = [
        comment + HEADER_GUARD,
        section("model.h", "错误码"),
        "/* 指令集级别：enhancer_options 的 level */\n" + section("lstm.h", "级别"),
        version + "\n\n" + section("enhancer.h", "接口"),
    ]
    return "\n".join(parts) + "#endif\n"


def source() -> str:
    """全部的实现。"""
    block, level = unwrapped("block.h"), kernel_with_parts()
    main = "\n".join(
        [
            SETTINGS,
            RULE.format("内部的结构") + unwrapped("lstm.h", drop="级别"),
            unwrapped("model.h", drop="错误码"),
            unwrapped("enhancer.h", drop="接口", before=False),
            RULE.format("权重导入") + unwrapped("model.c"),
            RULE.format("打开与关闭") + unwrapped("enhancer.c"),
            RULE.format("各个指令集级别") + levels(level, block),
            RULE.format("运行时选级别") + unwrapped("dispatch.c"),
        ]
    )
    text = (
        f"{OPENING}#if defined(ENHANCER_BLOCK)\n\n{RULE.format('一块')}{block}\n"
        f"#elif defined(ENHANCER_LEVEL)\n\n{RULE.format('一个指令集级别')}{level}\n#else\n"
        f"{includes()}\n{main}\n#endif\n"
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def kernel_with_parts() -> str:
    """kernel.c，连同它包含的 isa.h 与 chain.h；包含 block.h 的地方改成包含本文件。"""
    again = '#define ENHANCER_BLOCK\n#include "enhancer.c"\n#undef ENHANCER_BLOCK\n'
    parts = {
        "isa.h": unwrapped("isa.h").replace(intrinsics(), ""),
        "chain.h": unwrapped("chain.h"),
        "block.h": again,
    }
    return unwrapped("kernel.c", parts)


def levels(level: str, block: str) -> str:
    """逐个级别地包含本文件；同一个函数在各级别里名字不同。"""
    names = sorted(level_names(level, block))
    lines = [
        "/* 每个级别各有一份的函数与类型：名字后面加上级别 */",
        "#define OF_LEVEL3(name, level) name##_of_##level",
        "#define OF_LEVEL2(name, level) OF_LEVEL3(name, level)",
        "#define OF_LEVEL(name) OF_LEVEL2(name, LEVEL)",
        *(f"#define {name} OF_LEVEL({name})" for name in names),
        "#define ENHANCER_LEVEL",
        "",
        *include_level("portable"),
    ]
    for name, (condition, gcc, clang) in TARGETS.items():
        lines += [
            "",
            f"#if {condition}",
            f"#define HAVE_{name.upper()}",
            "#ifdef __clang__",
            f'#pragma clang attribute push(__attribute__((target("{clang}"))), apply_to = function)',
            "#else",
            "#pragma GCC push_options",
            f'#pragma GCC target("{gcc}")',
            "#endif",
            *include_level(name),
            "#ifdef __clang__",
            "#pragma clang attribute pop",
            "#else",
            "#pragma GCC pop_options",
            "#endif",
            "#endif",
        ]
    lines += ["", "#undef ENHANCER_LEVEL", *(f"#undef {name}" for name in names), "#define HAVE_PORTABLE"]
    return "\n".join(lines) + "\n"


def include_level(name: str) -> list[str]:
    changing = ("LEVEL", "WIDE", "DOT_OFFSET", "TILES")
    return [f"#define LEVEL {name}", '#include "enhancer.c"', *(f"#undef {macro}" for macro in changing)]


def level_names(level: str, block: str) -> set[str]:
    """级别那一遍里定义的函数、类型与枚举常数；块里的 ``FN(名字)`` 按三种宽度展开。"""
    function = r"^(?:INLINE|static)\b[^;={}()]*?\*?\b(\w+)\("
    names = set(re.findall(function, level, re.M)) | set(re.findall(r"^enum \{ (\w+) =", level, re.M))
    names |= set(re.findall(r"^\} (\w+);", level, re.M))
    names |= {f"apply_{name}" for name in re.findall(r"^APPLY\((\w+)\)$", level, re.M)}
    wide = set(re.findall(r"^(?:INLINE|static)\b[^;={}]*?FN\((\w+)\)\(", block, re.M))
    return (names | {f"{name}_{width}" for name in wide for width in (4, 8, 16)}) - {"FN", "JOIN"}


def includes() -> str:
    """系统的头文件，一次写全：声明指令的那些要在换指令集之前读进来。"""
    names = ("lstm.h", "model.h", "model.c", "enhancer.c", "kernel.c")
    found = {line for name in names for line in re.findall(SYSTEM, read(name), re.M)}
    return '#include "enhancer.h"\n\n' + "".join(sorted(found)) + intrinsics()


def intrinsics() -> str:
    """isa.h 里按处理器挑头文件的那几行。"""
    text = read("isa.h")
    start = text.index("#if defined(__SSE2__)\n#include <immintrin.h>\n")
    return text[start : text.index("#endif\n", start) + len("#endif\n")]


def unwrapped(name: str, parts: dict[str, str] | None = None, drop: str = "", before: bool = True) -> str:
    """一个源文件的正文：去掉防重复包含的三行、无条件的包含、给书里取片段用的标记。

    parts：``{"x.h": 内容}``，用内容代替 ``#include "x.h"``；drop：另放到头文件里的片段，before 说它前面的要不要。
    """
    text = read(name)
    if drop:
        start, stop = text.index(f"// [{drop}]\n"), text.index(f"// [/{drop}]\n")
        text = text[:start] * before + text[stop:]
    guard = re.search(r"^#ifndef (\w+_H)\n#define \1\n", read(name), re.M)
    if guard:
        text = text.replace(guard[0], "").rstrip().removesuffix("#endif") + "\n"
    text = re.sub(LOCAL, lambda found: (parts or {}).get(found[1], ""), text, flags=re.M)
    if not re.search(r"^#if.*\n#include <", text, re.M):  # 按条件包含的留在原处
        text = re.sub(SYSTEM, "", text, flags=re.M)
    return re.sub(r"^// \[/?[^\]\n]+\]\n", "", text, flags=re.M)


def section(name: str, mark: str) -> str:
    """``// [mark]`` 与 ``// [/mark]`` 之间的那一段。"""
    text = read(name)
    return text[text.index(f"// [{mark}]\n") + len(mark) + 6 : text.index(f"// [/{mark}]\n")]


def read(name: str) -> str:
    return (Path(HERE) / name).read_text(encoding="utf-8")
