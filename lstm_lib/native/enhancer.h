/* 语音增强器：波形进、波形出，一次一个帧移。整条链都在这里：加窗、FFT、幅度谱、LSTM、线性层、掩蔽、逆变换、重叠相加。
 *
 *     enhancer_error error;
 *     enhancer *e = enhancer_open(model, bytes, NULL, &error);
 *     while (…) enhancer_process(e, in, out, 1, &error);
 *     enhancer_close(e);
 *
 * 形状与单位：in、out 各 hops × hop 个 float，满幅是 ±1；一路流是一个声道，采样率见 enhancer_info()。
 *   out 比 in 晚 latency - hop 个样点；要取出最后的声音，再送 latency - hop 个零（向上取整到帧移）。
 *   in 与 out 可以是同一个数组。切成多大的块送进来，输出一个比特也不变。
 * 错误：出错的函数返回 NULL 或非零，error 里是错误码与字节位置（见 model.h），enhancer_message() 给出中文说法。
 * 内存：打开时要一次（或用调用者给的），以后不再分配；process 里没有锁，没有系统调用，没有全局变量。
 * 线程：一个 enhancer 同一时刻只许一个线程用；enhancer_fork() 出来的各路流共用权重，可以各在各的线程里。
 *   process 把非规格化数当零，返回前恢复原来的设置。 */
#ifndef ENHANCER_H
#define ENHANCER_H
#include "model.h"

#define ENHANCER_VERSION "0.1.0"

// [接口]
typedef lstm_error enhancer_error;
typedef struct enhancer enhancer;

typedef struct {
    int32_t level;    /* 指令集级别；-1：取这台机器支持的最高一级 */
    int32_t quantize; /* 浮点的权重怎样存：LSTM_FLOAT32、LSTM_INT8 或 LSTM_FLOAT16 */
    int32_t
        group; /* 一次最多几个帧移一起算，1…256；0：缺省。多了快（离线），少了省内存；结果一样 */
} enhancer_options;

typedef struct {
    int32_t sample_rate, hop, latency; /* Hz，样点，样点 */
    int32_t level, quantized, layers, input_size, hidden_size;
    int64_t shared_bytes, stream_bytes; /* 权重占的内存、每路流自己占的内存，字节 */
} enhancer_facts;

/* enhancer_open_at 要多少字节的内存；model 不能用时返回 -1。options 可以是 NULL。 */
int64_t enhancer_bytes(const void *model, int64_t bytes, const enhancer_options *options,
                       enhancer_error *error);

/* 打开。memory：至少 enhancer_bytes() 字节，64 字节对齐，用到 close 为止；model 打开之后就可以放掉。 */
enhancer *enhancer_open_at(const void *model, int64_t bytes, const enhancer_options *options,
                           void *memory, enhancer_error *error);

/* 同上，自己向系统要一次内存（malloc），close 时归还。 */
enhancer *enhancer_open(const void *model, int64_t bytes, const enhancer_options *options,
                        enhancer_error *error);

/* 从 e 再开一路流：状态是新的，权重与 e 共用，所以 e 要最后关。
 * _at：用调用者的内存，至少 enhancer_info(e).stream_bytes 字节，64 字节对齐。 */
enhancer *enhancer_fork(const enhancer *e, enhancer_error *error);
enhancer *enhancer_fork_at(const enhancer *e, void *memory);

/* 处理 hops 个帧移。返回 0；in 里有 NaN、无穷或绝对值超过 10¹⁵ 的数时返回错误码，状态不变，out 不写。 */
int32_t enhancer_process(enhancer *e, const float *in, float *out, int64_t hops,
                         enhancer_error *error);

/* 忘掉一切，准备下一段声音。 */
void enhancer_reset(enhancer *e);

void enhancer_close(enhancer *e);

enhancer_facts enhancer_info(const enhancer *e);

const char *enhancer_message(int32_t code);
// [/接口]

/* ---- 以下是内部的结构：内核（chain.h）要看见它 ---- */

// [FFT 的准备]
enum { FFT_FACTORS = 24 };

typedef struct {
    int32_t size;                 /* n_fft / 2：两个实数拼成一个复数，长度减半 */
    int32_t count;                /* 因子的个数 */
    int32_t factor[FFT_FACTORS];  /* size 分解成的因子，4 尽量多 */
    const float *cosine, *sine;   /* [size]：e^{-2πik/size} 的实部与虚部 */
    const float *half_c, *half_s; /* [size + 1]：e^{-2πik/n_fft} */
} fft_plan;
// [/FFT 的准备]

struct enhancer {
    const lstm_model *model;
    fft_plan plan;
    const float *analysis, *synthesis; /* [n_fft] 两个窗；逆变换的 1/n_fft 并在合成窗里 */
    lstm_stream lstm;
    int32_t group;
    void *owned; /* 自己要来的内存，close 时归还 */
    int64_t shared_bytes, stream_bytes;
    /* 一路流的状态 */
    float *history; /* [n_fft - hop + group·hop]：前面是最近的旧样点 */
    float *overlap; /* [n_fft]：还没有加完的输出 */
    /* 草稿 */
    float *re, *im;      /* [group][row]：带噪谱，row = n_fft/2 + 1 补到 16 的倍数 */
    float *x, *h, *mask; /* [group][input_size]、[group][hidden]、[group][row 或 bins] */
    float *parts[4];     /* [n_fft/2] 四份，FFT 用 */
    float *frame;        /* [n_fft] */
    void *head_scratch;
    void *begin; /* 一路流的状态（到 re 为止）从这里起，reset 时清零 */
};

void lstm_hops(int level, enhancer *e, const float *in, float *out, int64_t hops);
#endif
