/* LSTM 的 C 内核：一层、一个方向地算。每个指令集级别用各自的编译选项把本文件编译一次，LEVEL 是那个级别的名字。 */
#include "lstm.h"

#include <math.h>
#include <string.h>

#ifndef LIBM_GATES
#define LIBM_GATES 0
#endif
// [批的大小]
#ifndef CHUNK
#define CHUNK 96 /* 输入投影一次做多少行：pre 要留在二级缓存里 */
#endif
// [/批的大小]

#define INLINE static inline __attribute__((always_inline, unused))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define ITEM(kind) ((kind) == LSTM_FLOAT16 ? 2 : 4) /* 一个浮点的权重几字节 */

/* 快速 tanh 的截断点与系数 */
#define LIMIT 8.05039406f /* 到这里为止输出都不超过 1，而且离 1 最近 */
#define P0 1.0f
#define P1 0.1342553347349167f
#define P2 3.548947861418128e-3f
#define P3 2.1512678358703852e-5f
#define P4 1.467133969867973e-8f
#define Q1 0.46758851408958435f
#define Q2 2.6078643277287483e-2f
#define Q3 3.3739139325916767e-4f
#define Q4 8.300724516629998e-7f

#include "isa.h"

/* 一次最多几帧共用读进来的权重：4·MOST 个累加器要住得下寄存器（AVX-512 与 AArch64 有 32 个，其余 16 个）。 */
#if ISA == AT_avx512 || defined(__aarch64__)
enum { MOST = 6 };
#else
enum { MOST = 3 };
#endif

enum { AHEAD = 2048 }; /* 权重提前多少字节预取，见 dot */

/* 若干行输入：浮点的或量化过的 */
typedef struct {
    int32_t tiles;       /* int8 才可能是 1：行数够多，用瓦片乘 */
    int32_t parts;       /* 一行权重分几部分：LSTM 两部分（乘 x 的与乘 h 的），线性层一部分 */
    int32_t size, other; /* 本部分与另一部分各有多少列；int8 时已补成 4 的倍数 */
    const float *f;
    int64_t stride;
    const int8_t *q;
    const float *step;
} rows;

/* AMX 的一块瓦片是 16 行 × 64 字节。一条指令让两块相乘：16 行 x 的 64 列，乘 16 行权重的同样 64 列，一万六千多次乘加。
 * 权重打包的次序（4 列一组，组里每行 4 字节）正是它要的。都是整数，所以与逐列加逐位相同。 */
#define TILE 16  /* 一块几行 */
#define ENOUGH 5 /* 不到这么多行，还是逐列加快 */
#if ISA == AT_avx512 && (defined(__clang__) || __GNUC__ >= 11)
#define TILES 1
#define USES_TILES __attribute__((noinline, target("amx-tile,amx-int8")))

/* 八块瓦片都是 16 行 × 64 字节 */
USES_TILES static void tiles_open(void) {
    static const struct {
        uint8_t palette, start, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shape);
}

/* 用完交还：切换线程时就不用保存这 8 KB */
USES_TILES static void tiles_close(void) { _tile_release(); }

// [瓦片]
/* 16 行 x 乘一块权重（width 个单元，4 个门）的前 size 列，size 是 64 的倍数；sum：[16][I F O G][width]。
 * 宽块的四个门各用一块瓦片，互不相干；窄块的四个门合起来才一块。 */
USES_TILES static void tiles_dot(const int8_t *w, int width, int size, const int8_t *x,
                                 int64_t stride, int32_t *sum) {
#define EACH_PART(one)                                                                             \
    {                                                                                              \
        one(0);                                                                                    \
        if (width == 16) {                                                                         \
            one(1);                                                                                \
            one(2);                                                                                \
            one(3);                                                                                \
        }                                                                                          \
    }
#define ZERO(part) _tile_zero(part)
#define MULTIPLY(part)                                                                             \
    _tile_loadd(5, w + (int64_t)4 * width * k + 64 * part, 16 * width);                            \
    _tile_dpbusd(part, 4, 5)
#define KEEP(part) _tile_stored(part, sum + 16 * part, 16 * width)
    __asm__ volatile("" : : : "memory"); /* GCC 不知道读瓦片要读内存：让前面的写都落定 */
    EACH_PART(ZERO)
    for (int k = 0; k < size; k += 64) {
        _tile_loadd(4, x + k, stride);
        EACH_PART(MULTIPLY)
    }
    EACH_PART(KEEP)
}
// [/瓦片]
#else
#define TILES 0
INLINE void tiles_open(void) {}
INLINE void tiles_close(void) {}
INLINE void tiles_dot(const int8_t *w, int width, int size, const int8_t *x, int64_t stride,
                      int32_t *sum) {
    (void)w, (void)width, (void)size, (void)x, (void)stride, (void)sum;
}
#endif

/* rows 行用不用瓦片；用的话，量化过的输入要有整 16 行的地方，补出来的几行算了不要 */
INLINE int tiled(const lstm_net *net, int64_t rows) {
    return TILES && net->tiles && rows >= ENOUGH;
}
INLINE int64_t whole_rows(const lstm_net *net, int64_t rows) {
    return tiled(net, rows) ? (rows + TILE - 1) / TILE * TILE : rows;
}
#define V WIDE
#include "block.h"
#undef V
#if WIDE != 4
#define V 4
#include "block.h"
#undef V
#endif

#define WIDE_FN(name) JOIN(name, WIDE)

// [量化输入]
/* 一行输入量化成 int8：步长 = 最大绝对值 / 127，就近取整。全零的行步长为 0。
 * 去掉符号位的浮点数，大小次序与它的整数编码相同；NaN 与无穷的编码比一切有限数都大，于是一次求最大值两件事都办了。
 * 加上 1.5·2²³ 之后，浮点数的最低字节正是就近取整的结果。这两个循环编译器自会向量化。 */
INLINE float quantize(const float *restrict x, int size, int8_t *restrict q, int padded) {
    int32_t top = 0;
    for (int k = 0; k < size; k++) {
        int32_t bits;
        memcpy(&bits, x + k, 4);
        bits &= 0x7fffffff;
        top = MAX(top, bits);
    }
    float largest;
    memcpy(&largest, &top, 4);
    const float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
    const float magic = 12582912.0f + 128 * DOT_OFFSET;
    for (int k = 0; k < size; k++) {
        float shifted = x[k] * inverse + magic;
        int32_t bits;
        memcpy(&bits, &shifted, 4);
        q[k] = (int8_t)bits;
    }
    memset(q + size, 0, (size_t)(padded - size));
    /* 有 NaN 或无穷：步长取 NaN，输出也就是 NaN，坏输入不会悄悄变成好看的数 */
    return largest * (1 / 127.0f) + (top >= 0x7f800000 ? largest - largest : 0.0f);
}
// [/量化输入]

/* 草稿内存的划分；base 为 NULL 时只算大小。各段 64 字节对齐。 */
typedef struct {
    float *h, *next, *c, *pre, *x_step, *h_step, *layer[2];
    int8_t *x_q, *h_q;
    int64_t h_stride, units, chunk;
} work;

static int64_t carve(const lstm_net *net, int64_t frames, int32_t batch, char *base, work *w) {
    int64_t used = 0, widest = 0, inputs = 0;
    w->units = w->h_stride = 0;
    for (int i = 0; i < net->layers * net->directions; i++) {
        const lstm_cell *cell = net->cells + i;
        int64_t units = (int64_t)cell->wide * WIDE + (int64_t)cell->narrow * 4;
        w->units = MAX(w->units, units);
        w->h_stride = MAX(w->h_stride, MAX(units, ((int64_t)cell->output_size + 15) / 16 * 16));
        widest = MAX(widest, (int64_t)cell->output_size * net->directions);
        inputs = MAX(inputs, ((int64_t)cell->input_size + 15) / 16 * 16);
    }
    w->chunk = MIN(frames, MAX(1, CHUNK / batch));
    const int64_t many = w->chunk * batch, between = net->layers > 1 ? frames * batch * widest : 0;
    const int quantized = net->quantized == LSTM_INT8;
/* w 的一段草稿，64 字节对齐 */
#define PIECE(field, bytes)                                                                        \
    (w->field = base ? (void *)(base + used) : NULL, used += ((int64_t)(bytes) + 63) / 64 * 64)
    PIECE(h, batch * w->h_stride * 4);
    PIECE(next, batch * w->h_stride * 4);
    PIECE(c, batch * w->units * 4);
    PIECE(pre, frames > 1 ? many * w->units * 16 : 0);
    PIECE(layer[0], between * 4);
    PIECE(layer[1], between * 4);
    PIECE(x_step, quantized ? many * 4 : 0);
    PIECE(h_step, quantized ? batch * 4 : 0);
    PIECE(x_q, quantized ? whole_rows(net, many) * inputs : 0);
    PIECE(h_q, quantized ? whole_rows(net, batch) * w->h_stride : 0);
    return used;
}

/* 投影层（proj_size）：h = W_hr · h'，逐列累加，编译器自会向量化。 */
INLINE void apply_projection(const lstm_cell *cell, const float *full, float *h) {
    const int size = cell->output_size;
    for (int o = 0; o < size; o++) h[o] = 0;
    for (int k = 0; k < cell->hidden_size; k++)
        for (int o = 0; o < size; o++) h[o] += cell->projection[(int64_t)k * size + o] * full[k];
}

/* 块里第一个单元的编号：先宽块，后窄块 */
INLINE int first_unit(const lstm_cell *cell, int block) {
    return block < cell->wide ? block * WIDE : cell->wide * WIDE + (block - cell->wide) * 4;
}

// [一层]
/* 一层、一个方向、frames 帧、batch 个序列。x：[frames][batch][input_size]；y 的行距是 y_stride。 */
INLINE void run_cell(const lstm_net *net, const lstm_cell *cell, const int kind, const float *x,
                     int64_t frames, int batch, float *y, int64_t y_stride, work *w,
                     int32_t *turn) {
    const int quantized = kind == LSTM_INT8, pad = quantized ? 3 : 0;
    const int columns = cell->input_size, size = cell->output_size;
    const int padded = (columns + pad) & ~pad, h_padded = (size + pad) & ~pad;
    const int blocks = cell->wide + cell->narrow;
    /* 只有一行时，一块的四条累加链盖不住乘加的延迟：相邻的两块一起走。int8 逐帧的不必：一块的 x、h 两段连着读更快 */
    const int alone = batch > 1 || (quantized && frames == 1);
    const int pairs = alone ? 0 : cell->wide / 2, items = blocks - pairs;
    for (int64_t done = 0; done < frames; done += w->chunk) {
        const int64_t many = MIN(w->chunk, frames - done);
        const int64_t first = cell->backward ? frames - done - many : done;
        const rows in = {tiled(net, many * batch),    2,       padded, h_padded,
                         x + first * batch * columns, columns, w->x_q, w->x_step};
        if (quantized)
            for (int64_t j = 0; j < many * batch; j++)
                w->x_step[j] = quantize(in.f + j * columns, columns, w->x_q + j * padded, padded);
        /* 输入投影不依赖 h：一批帧一起算，每块权重只读一次 */
        for (int block = 0; frames > 1 && block < blocks; block++) {
            const int unit = first_unit(cell, block);
            if (block < cell->wide)
                WIDE_FN(project)(cell, unit, &in, many * batch, kind, w->pre, w->units);
            else
                project_4(cell, unit, &in, many * batch, kind, w->pre, w->units);
        }
        for (int64_t t = 0; t < many; t++) {
            const int64_t at = cell->backward ? many - 1 - t : t;
            const float *pre = frames > 1 ? w->pre + at * batch * 4 * w->units : NULL;
            const rows h = {tiled(net, batch), 2,      h_padded, padded, w->h,
                            w->h_stride,       w->h_q, w->h_step};
            if (quantized)
                for (int b = 0; b < batch; b++)
                    w->h_step[b] =
                        quantize(h.f + b * h.stride, size, w->h_q + b * h_padded, h_padded);
            /* 这一帧从头到尾扫权重，下一帧从尾扫回来：刚用过的那一截还在缓存里 */
            for (int k = 0; k < items; k++) {
                const int item = *turn & 1 ? items - 1 - k : k, block = item + pairs;
                const int unit = first_unit(cell, item < pairs ? 2 * item : block);
                if (item < pairs)
                    WIDE_FN(advance_some)(cell, unit, 2, &in, &h, 0, 1, kind, NULL, pre, w->c,
                                          w->next, w->units);
                else if (block < cell->wide)
                    WIDE_FN(advance)(cell, unit, &in, &h, batch, kind, pre, w->c, w->next,
                                     w->units);
                else
                    advance_4(cell, unit, &in, &h, batch, kind, pre, w->c, w->next, w->units);
            }
            *turn ^= 1;
            if (cell->projection)
                for (int b = 0; b < batch; b++)
                    apply_projection(cell, w->next + b * w->h_stride, w->h + b * w->h_stride);
            else {
                float *swap = w->h;
                w->h = w->next, w->next = swap;
            }
            for (int b = 0; b < batch; b++)
                memcpy(y + ((first + at) * batch + b) * y_stride, w->h + b * w->h_stride,
                       (size_t)size * 4);
        }
    }
}
// [/一层]

/* 三种权重各编译一份 */
static void run_float(const lstm_net *net, const lstm_cell *cell, const float *x, int64_t frames,
                      int batch, float *y, int64_t y_stride, work *w, int32_t *turn) {
    run_cell(net, cell, LSTM_FLOAT32, x, frames, batch, y, y_stride, w, turn);
}

static void run_int8(const lstm_net *net, const lstm_cell *cell, const float *x, int64_t frames,
                     int batch, float *y, int64_t y_stride, work *w, int32_t *turn) {
    run_cell(net, cell, LSTM_INT8, x, frames, batch, y, y_stride, w, turn);
}

static void run_half(const lstm_net *net, const lstm_cell *cell, const float *x, int64_t frames,
                     int batch, float *y, int64_t y_stride, work *w, int32_t *turn) {
    run_cell(net, cell, LSTM_FLOAT16, x, frames, batch, y, y_stride, w, turn);
}

/* 用户的状态是紧排的，草稿里的补齐到整块；补出来的单元权重与偏置全零，c、h 恒为零，不影响别人。 */
static void copy_rows(float *to, int64_t to_stride, const float *from, int64_t from_stride,
                      int size, int count) {
    for (int b = 0; b < count; b++)
        memcpy(to + b * to_stride, from + b * from_stride, (size_t)size * 4);
}

static void run(lstm_stream *s, const float *x, float *y, int64_t frames) {
    const lstm_net *net = s->net;
    const int batch = s->batch, kind = net->quantized;
    __typeof__(run_float) *const one = kind == LSTM_INT8      ? run_int8
                                       : kind == LSTM_FLOAT16 ? run_half
                                                              : run_float;
    const uint64_t mode = flush_denormals();
    work w;
    carve(net, frames, batch, s->scratch, &w);
    const int tiles = tiled(net, w.chunk * batch);
    if (tiles) tiles_open();
    float *h = s->h, *c = s->c;
    for (int layer = 0; layer < net->layers; layer++) {
        const int last = layer == net->layers - 1;
        float *out = last ? y : w.layer[layer & 1];
        for (int direction = 0; direction < net->directions; direction++) {
            const lstm_cell *cell = net->cells + layer * net->directions + direction;
            const int size = cell->output_size, hidden = cell->hidden_size;
            memset(w.c, 0, (size_t)(batch * w.units) * 4);
            copy_rows(w.h, w.h_stride, h, size, size, batch);
            copy_rows(w.c, w.units, c, hidden, hidden, batch);
            one(net, cell, x, frames, batch, out + direction * size,
                (int64_t)size * net->directions, &w, &s->turn);
            copy_rows(h, size, w.h, w.h_stride, size, batch);
            copy_rows(c, hidden, w.c, w.units, hidden, batch);
            h += (int64_t)batch * size, c += (int64_t)batch * hidden;
        }
        x = out;
    }
    if (tiles) tiles_close();
    restore_denormals(mode);
}

/* 激活函数作用于 n 个数；也单独露出来，供测试逐个数检验 */
#define APPLY(name)                                                                                \
    static void apply_##name(const float *x, float *y, int64_t n) {                                \
        int64_t k = 0;                                                                             \
        for (; k + WIDE <= n; k += WIDE) {                                                         \
            JOIN(vf, WIDE) v;                                                                      \
            memcpy(&v, x + k, sizeof v);                                                           \
            v = JOIN(name, WIDE)(v);                                                               \
            memcpy(y + k, &v, sizeof v);                                                           \
        }                                                                                          \
        for (; k < n; k++) y[k] = JOIN(name, WIDE)((JOIN(vf, WIDE)){0} + x[k])[0];                 \
    }
APPLY(tanh)
APPLY(sigmoid)

/* ---- 线性层：权重按 4 段打包，LSTM 的输入投影原样可用；第 k 段是输出的第 k 个四分之一 ---- */

static int64_t carve_dense(const lstm_net *net, const lstm_cell *layer, int64_t rows, char *base,
                           work *w) {
    const int64_t units = (int64_t)layer->wide * WIDE + (int64_t)layer->narrow * 4;
    const int quantized = net->quantized == LSTM_INT8;
    const int64_t columns = quantized ? ((int64_t)layer->input_size + 3) / 4 * 4 : 0;
    int64_t used = 0;
    w->units = units;
    PIECE(pre, rows * units * 16);
    PIECE(x_step, columns ? rows * 4 : 0);
    PIECE(x_q, whole_rows(net, rows) * columns);
    return used;
}

/* 一块的结果放回各自的位置：to 是第一段里的那个单元，各段相距 units 个数。多半是整块，长度是常数的抄得快。 */
#define SPREAD(width)                                                                              \
    for (int part = 0; part < 4; part++) {                                                         \
        const int64_t start = part * units + unit, room = MIN(units - unit, size - start);         \
        if (room >= width)                                                                         \
            memcpy(to + start, from + part * width, width * 4);                                    \
        else if (room > 0)                                                                         \
            memcpy(to + start, from + part * width, (size_t)room * 4);                             \
    }

static void dense(const lstm_net *net, const lstm_cell *layer, int through_sigmoid, const float *x,
                  float *y, int64_t count, void *scratch) {
    const uint64_t mode = flush_denormals();
    const int kind = net->quantized, quantized = kind == LSTM_INT8, pad = quantized ? 3 : 0;
    const int columns = layer->input_size;
    const int padded = (columns + pad) & ~pad;
    const int64_t units = layer->hidden_size, size = layer->output_size;
    work w;
    carve_dense(net, layer, count, scratch, &w);
    const rows in = {tiled(net, count), 1, padded, 0, x, columns, w.x_q, w.x_step};
    if (in.tiles) tiles_open();
    for (int64_t j = 0; quantized && j < count; j++)
        w.x_step[j] = quantize(x + j * columns, columns, w.x_q + j * padded, padded);
    for (int block = 0; block < layer->wide + layer->narrow; block++) {
        const int unit = first_unit(layer, block);
        if (block < layer->wide)
            WIDE_FN(project_any)(layer, unit, &in, count, kind, w.pre, w.units);
        else
            project_any_4(layer, unit, &in, count, kind, w.pre, w.units);
        for (int64_t j = 0; j < count; j++) {
            const float *from = w.pre + 4 * (j * w.units + unit);
            float *to = y + j * size;
            if (block < layer->wide) {
                SPREAD(WIDE)
            } else {
                SPREAD(4)
            }
        }
    }
    if (in.tiles) tiles_close();
    if (through_sigmoid) apply_sigmoid(y, y, count * size);
    restore_denormals(mode);
}

static int64_t dense_bytes(const lstm_net *net, const lstm_cell *layer, int64_t count) {
    work w;
    return carve_dense(net, layer, count, NULL, &w);
}

static int64_t scratch_bytes(const lstm_net *net, int64_t frames, int32_t batch) {
    work w;
    return carve(net, frames, batch, NULL, &w);
}

#include "chain.h"

const lstm_level JOIN(lstm_level, LEVEL) = {
    WIDE, dense_bytes, dense, hops, scratch_bytes, run, apply_tanh, apply_sigmoid,
};
