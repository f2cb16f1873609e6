/* LSTM 内核的数据结构。内存全归调用者（Python 里的 NumPy 数组）所有：C 里没有 malloc，没有全局变量，可重入。 */
#ifndef LSTM_H
#define LSTM_H
#include <stdint.h>

// [结构]
typedef struct {
    int32_t input_size, hidden_size, output_size; /* output_size：投影后的宽度；没有投影时等于 hidden_size */
    int32_t wide, narrow; /* 宽块、窄块各多少：宽块 V 个隐藏单元，窄块 4 个，每个单元 4 个门 */
    int32_t backward;     /* 1：从最后一帧往前走 */
    const void *weight;      /* 按块打包，块内先是乘 x 的、再是乘 h 的；float32 或 int8 */
    const float *bias;       /* [块][I F O G][V] */
    const float *scale;      /* int8 才有：每行的量化步长，[块][x h][I F O G][V] */
    const int32_t *offset;   /* int8 才有：每行的 -128·Σw，给 u8×s8 的点积指令扣除偏移；排法同 scale */
    const float *projection; /* [hidden_size][output_size]；没有投影时为 NULL */
} lstm_cell;

typedef struct {
    int32_t level, quantized, layers, directions;
    const lstm_cell *cells; /* [layers × directions] */
} lstm_net;

typedef struct {
    const lstm_net *net; /* 只读：一千个流共用同一份权重 */
    float *h, *c;        /* 状态 [layers × directions][batch][output_size / hidden_size]，就地更新 */
    void *scratch;       /* 本次调用的草稿，至少 lstm_scratch_bytes() 字节，64 字节对齐 */
    int32_t batch, turn; /* turn：下一帧从头还是从尾扫权重 */
} lstm_stream;

int lstm_level_supported(int level);
int lstm_level_width(int level);
int64_t lstm_scratch_bytes(const lstm_net *net, int64_t frames, int32_t batch);
void lstm_run(lstm_stream *s, const float *x, float *y, int64_t frames);
void lstm_repeat(lstm_stream *s, const float *x, float *y, int64_t times);
void lstm_tanh(int level, const float *x, float *y, int64_t n);
void lstm_sigmoid(int level, const float *x, float *y, int64_t n);
// [/结构]

enum { LSTM_PORTABLE = 0, LSTM_AVX2 = 1, LSTM_AVX512 = 2, LSTM_NEON_DOT = 3, LSTM_LEVELS = 4 };

/* 每个指令集级别的入口：同一份 kernel.c 用不同的编译选项各编译一次。 */
typedef struct {
    int width;
    int64_t (*scratch_bytes)(const lstm_net *, int64_t, int32_t);
    void (*run)(lstm_stream *, const float *, float *, int64_t);
    void (*tanh)(const float *, float *, int64_t);
    void (*sigmoid)(const float *, float *, int64_t);
} lstm_level;
#endif
