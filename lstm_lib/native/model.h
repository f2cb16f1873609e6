/* 权重导入：把模型文件（版本 1 或 2，格式见 Python 里的 lstm.weight_file 与 formats.network_file）查一遍、排成内核要的样子。
 *
 * 文件可以在内存的任何位置（不要求对齐），大小端与本机无关；用之前每个字节都查过：长度、魔数、版本、两处 CRC、
 * 各尺寸与数据区是否相符、浮点数是否有限、int8 是否在 -127…127。查出问题，什么也不写，错误码与字节位置记在 error 里。 */
#ifndef LSTM_MODEL_H
#define LSTM_MODEL_H
#include "lstm.h"
#include <stddef.h>

// [错误码]
enum {
    LSTM_OK = 0,
    LSTM_SHORT,       /* 文件在这里断了 */
    LSTM_MAGIC,       /* 不是本书的权重文件 */
    LSTM_VERSION,     /* 版本号不认识 */
    LSTM_HEADER_SIZE, /* 文件头长度不对 */
    LSTM_HEADER_CRC,  /* 文件头的 CRC 不对 */
    LSTM_FLAGS,       /* 标志位的组合没有定义 */
    LSTM_SIZE,        /* 某个尺寸是 0，或大得放不进内存 */
    LSTM_DTYPE,       /* 数的类型不认识 */
    LSTM_RESERVED,    /* 保留或补齐的字节不是 0 */
    LSTM_DATA_SIZE,   /* 数据区长度与各尺寸不符 */
    LSTM_TRAILING,    /* 文件末尾多出字节 */
    LSTM_DATA_CRC,    /* 数据区的 CRC 不对 */
    LSTM_NOT_FINITE,  /* 权重里有 NaN 或无穷 */
    LSTM_INT8_RANGE,  /* int8 权重是 -128 */
    LSTM_STEP,        /* 量化步长不是非负的有限数 */
    LSTM_STFT,        /* STFT 的约定不认识，或与网络的尺寸不符 */
    LSTM_NOT_MASK,    /* 文件里的网络不是语音增强网络 */
    LSTM_LEVEL,       /* 这台机器跑不了这个指令集级别 */
    LSTM_MEMORY,      /* 内存不够 */
    LSTM_OPTION,      /* 选项的值不合理 */
    LSTM_SAMPLE,      /* 输入的样点里有 NaN、无穷或大得离谱的数 */
    LSTM_HALF_RANGE,  /* 权重太大，半精度放不下 */
    LSTM_CODES
};

typedef struct {
    int32_t code;   /* 上面的某一个 */
    int64_t offset; /* 出问题的字节在文件里的位置，从 0 数起；与文件无关的错误是 -1 */
} lstm_error;

/* 错误码的中文说法（UTF-8，不带位置），不会是 NULL。 */
const char *lstm_message(int32_t code);
// [/错误码]

// [模型]
typedef struct {
    lstm_net net;
    const lstm_cell *head; /* 末尾的线性层；没有时为 NULL。输出按 4 段存放，见 model.c */
    int32_t sigmoid;       /* 最后要不要过 sigmoid */
    int32_t version, layers;
    int32_t input_size, output_size; /* 网络一帧收几个数、给几个数 */
    /* 语音增强的约定；不是增强网络时 n_fft 为 0 */
    int32_t n_fft, hop_length, sample_rate, first_bin;
} lstm_model;

/* 打包之后要多少字节的内存；文件不能用时返回 -1，原因在 error。只查文件头与长度，不读数据区。
 * level：内核的级别；quantize：浮点的权重在内存里怎样存，LSTM_FLOAT32、LSTM_INT8 或 LSTM_FLOAT16
 * （文件里已是 int8 的总是 int8，已是半精度的不展宽）。 */
int64_t lstm_model_bytes(const void *file, int64_t bytes, int level, int quantize,
                         lstm_error *error);

/* 只有尺寸、没有权重的模型：net.layers 最多算 2 层（后面各层与第 1 层一样大），用来算草稿的大小。
 * cells 由调用者给，用到 model 不用为止。成功返回 1。 */
int lstm_model_outline(const void *file, int64_t bytes, int level, int quantize, lstm_model *model,
                       lstm_cell cells[5], lstm_error *error);

/* 查遍每个字节，然后把权重排进 memory（64 字节对齐，大小由 lstm_model_bytes 给出）。
 * 成功返回 memory 里的模型，以后不再需要 file；失败返回 NULL，原因在 error。 */
const lstm_model *lstm_model_open(const void *file, int64_t bytes, int level, int quantize,
                                  void *memory, lstm_error *error);
// [/模型]

/* 能不能一帧一帧地走：双向的与只反向的都要先看到未来的帧 */
static inline int lstm_streamable(const lstm_net *net) {
    return net->directions == 1 && !net->cells->backward;
}

/* 一块内存从头到尾分给各个数组，各段 64 字节对齐；base 为 NULL 时只算大小 */
typedef struct {
    char *base;
    int64_t used;
} arena;

static inline void *reserve(arena *a, int64_t count, int64_t size) {
    void *p = a->base ? a->base + a->used : NULL;
    a->used += (count * size + 63) / 64 * 64;
    return p;
}
#endif
