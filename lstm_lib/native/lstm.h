/* LSTM 内核的数据结构与入口。内存全归调用者（Python 里的 NumPy 数组）所有：C 里没有 malloc，没有全局变量，可重入。
 *
 * 各入口共同的约定：
 * 形状：按行存放，中括号里从外到内；数一律是 float（权重另有 int8 与半精度），没有单位，就是喂给网络的那些数。
 * 对齐：除了 scratch，都只要 4 字节对齐（weight 按 64 字节对齐最快）。各数组不许互相重叠。
 * 错误：没有错误码，也不查参数：形状、长度、级别由调用者事先查好（Python 里是 NativeLSTM），不合就越界读写。
 *       输入里有 NaN（int8 时无穷也算），输出就是 NaN：不会崩溃，也不会变成好看的数。
 * 线程：net 与它指着的权重只读，任意多个线程共用；一个 lstm_stream 同一时刻只许一个线程用。
 *       每个函数都在调用它的线程里算完才返回，不另开线程；lstm_run 把非规格化数当零，返回前恢复原来的设置。 */
#ifndef LSTM_H
#define LSTM_H
#include <stdint.h>

// [级别]
enum {
    LSTM_PORTABLE = 0,
    LSTM_AVX2 = 1,
    LSTM_AVX512 = 2,
    LSTM_NEON_DOT = 3,
    LSTM_WASM = 4,         /* WebAssembly 的 SIMD128 */
    LSTM_WASM_RELAXED = 5, /* 再加 relaxed SIMD 的点积 */
    LSTM_LEVELS = 6
};

/* 这个处理器（与操作系统）能不能跑 level 级：1 能；0 不能，或没有编译进来，或没有这个编号。
 * 别的函数都只许用查过能跑的级别。 */
int lstm_level_supported(int level);

/* level 级在这台机器上另有 AMX（一条指令乘两个小矩阵）可用：1 是；0 不是。会向 Linux 申请使用它的许可。 */
int lstm_tiles_supported(int level);

/* 权重怎样存：原样；逐行量化成 int8；半精度（IEEE binary16，就近取偶），读进寄存器时展宽，乘加仍是 float */
enum { LSTM_FLOAT32 = 0, LSTM_INT8 = 1, LSTM_FLOAT16 = 2 };
// [/级别]

// [结构]
typedef struct {
    /* output_size：投影后的宽度；没有投影时等于 hidden_size */
    int32_t input_size, hidden_size, output_size;
    int32_t wide, narrow; /* 宽块、窄块各多少：宽块 V 个隐藏单元，窄块 4 个，每个单元 4 个门 */
    int32_t backward;     /* 1：从最后一帧往前走 */
    const void *weight;   /* 按块打包，块内先是乘 x 的、再是乘 h 的；类型见 lstm_net 的 quantized */
    const float *bias;    /* [块][I F O G][V] */
    const float *scale;   /* int8 才有：每行的量化步长，[块][x h][I F O G][V] */
    /* int8 才有：每行的 -128·Σw，给 u8×s8 的点积指令扣除偏移；排法同 scale */
    const int32_t *offset;
    const float *projection; /* [hidden_size][output_size]；没有投影时为 NULL */
} lstm_cell;

typedef struct {
    int32_t level, quantized, layers,
        directions;         /* quantized：LSTM_FLOAT32、LSTM_INT8 或 LSTM_FLOAT16 */
    int32_t tiles;          /* 1：int8 的矩阵乘用 AMX，要 lstm_tiles_supported()；结果逐位相同 */
    const lstm_cell *cells; /* [layers × directions] */
} lstm_net;

typedef struct {
    const lstm_net *net; /* 只读：一千个流共用同一份权重 */
    float *h, *c;  /* 状态 [layers × directions][batch][output_size / hidden_size]，就地更新 */
    void *scratch; /* 本次调用的草稿，至少 lstm_scratch_bytes() 字节，64 字节对齐 */
    int32_t batch, turn; /* turn：下一帧从头还是从尾扫权重 */
} lstm_stream;

/* hidden_size 个单元要几个宽块（每块 width 个单元）、几个窄块（每块 4 个）。 */
void lstm_split_units(int64_t hidden_size, int width, int32_t *wide, int32_t *narrow);

/* level 级的宽块有几个隐藏单元（4、8 或 16），打包权重时要用。 */
int lstm_level_width(int level);

/* 一次算 frames 帧、batch 个序列（都不小于 1）要多少字节的草稿。 */
int64_t lstm_scratch_bytes(const lstm_net *net, int64_t frames, int32_t batch);

/* 从 s 的状态出发走 frames 帧，状态就地更新：正向的网络分成几段算，与一口气算完只差舍入。
 * x：[frames][batch][input_size]；y：[frames][batch][directions × output_size]，全部写满。
 * s->scratch 要装得下这么多帧；s->turn 开头是 0，以后由内核翻转。frames 为 0 时什么也不做。 */
void lstm_run(lstm_stream *s, const float *x, float *y, int64_t frames);

/* 线性层：y = W x + b，rows 行，sigmoid 为真时再过 sigmoid。x：[rows][input_size]；y：[rows][output_size]。
 * layer 是 lstm_model 的 head；scratch 至少 lstm_dense_bytes() 字节，64 字节对齐。 */
int64_t lstm_dense_bytes(const lstm_net *net, const lstm_cell *layer, int64_t rows);
void lstm_dense(const lstm_net *net, const lstm_cell *layer, int sigmoid, const float *x, float *y,
                int64_t rows, void *scratch);

/* 把 lstm_run(s, x, y, 1) 重复 times 遍：不回 Python，用来量 Python 占了多少时间。 */
void lstm_repeat(lstm_stream *s, const float *x, float *y, int64_t times);

/* 内核所用的快速 tanh 与 sigmoid，逐个作用于 x 的 n 个数，写进 y（可以就是 x）；供测试检验误差。 */
void lstm_tanh(int level, const float *x, float *y, int64_t n);
void lstm_sigmoid(int level, const float *x, float *y, int64_t n);
// [/结构]

struct enhancer;

/* 每个指令集级别的入口：同一份 kernel.c 用不同的编译选项各编译一次。 */
typedef struct {
    int width;
    int64_t (*dense_bytes)(const lstm_net *, const lstm_cell *, int64_t);
    void (*dense)(const lstm_net *, const lstm_cell *, int, const float *, float *, int64_t,
                  void *);
    void (*hops)(struct enhancer *, const float *, float *, int64_t);
    int64_t (*scratch_bytes)(const lstm_net *, int64_t, int32_t);
    void (*run)(lstm_stream *, const float *, float *, int64_t);
    void (*tanh)(const float *, float *, int64_t);
    void (*sigmoid)(const float *, float *, int64_t);
} lstm_level;
#endif
