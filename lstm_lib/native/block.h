/* 一块 V 个隐藏单元的全部计算。kernel.c 以不同的 V 把本文件包含两次：宽块用满寄存器，窄块（V = 4）收尾。
 * 用的是 GCC/Clang 的向量扩展：同一段源码在 AVX-512、AVX2、NEON 上各自编译成那里的指令。 */
#define FN(name) JOIN(name, V)
#define vf FN(vf)
#define vi FN(vi)
typedef float vf __attribute__((vector_size(4 * V)));
typedef int32_t vi __attribute__((vector_size(4 * V)));
typedef int8_t FN(vb) __attribute__((vector_size(4 * V)));
/* 读写内存用的三个，不要求对齐 */
typedef float FN(uf) __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef int32_t FN(ui) __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef int8_t FN(ub) __attribute__((vector_size(4 * V), aligned(1), may_alias));
#define LOAD(p) ((vf) * (const FN(uf) *)(p))
#define LOADI(p) ((vi) * (const FN(ui) *)(p))
#define STORE(p, v) (*(FN(uf) *)(p) = (v))
/* 一个数复制到每一道。减零什么也不改（-0 也是），编译器就省掉它，只剩一条从内存复制的读；
 * 加零会把 -0 变成 0，省不掉，还要占一次乘加的口。 */
#define SPLAT(s) ((s) - (vf){0})

/* 只为章节里的对比：逐个调用数学库。平时 LIBM_GATES 是 0，编译器会整段删掉。 */
INLINE vf FN(libm_tanh)(vf x) {
    for (int lane = 0; lane < V; lane++) x[lane] = tanhf(x[lane]);
    return x;
}

// [快速双曲正切]
/* tanh(x) ≈ x·P(x²)/Q(x²)；|x| 大于 LIMIT 的先截断。
 * 系数按最大误差最小拟合，误差界见“从公式到 C”一章。 */
INLINE vf FN(tanh)(vf x) {
    if (LIBM_GATES) return FN(libm_tanh)(x);
    const vf limit = (vf){0} + LIMIT;
    x = FN(max)(-limit, FN(min)(limit, x));
    const vf u = x * x, zero = {0};
    vf p = zero + P4, q = zero + Q4; /* 秦九韶：从最高次起，一次融合乘加降一次 */
    p = FN(fma)(p, u, zero + P3), q = FN(fma)(q, u, zero + Q3);
    p = FN(fma)(p, u, zero + P2), q = FN(fma)(q, u, zero + Q2);
    p = FN(fma)(p, u, zero + P1), q = FN(fma)(q, u, zero + Q1);
    p = FN(fma)(p, u, zero + P0), q = FN(fma)(q, u, zero + 1.0f);
    return x * p / q;
}

/* σ(x) = (1 + tanh(x/2)) / 2 */
INLINE vf FN(sigmoid)(vf x) { return 0.5f + 0.5f * FN(tanh)(0.5f * x); }
// [/快速双曲正切]

// [门的更新]
/* 四个累加器正好是 V 个单元的 I F O G：c、h 的更新全在寄存器里完成。 */
INLINE void FN(update)(const vf a[4], float *c, float *h) {
    vf i = FN(sigmoid)(a[0]), f = FN(sigmoid)(a[1]);
    vf o = FN(sigmoid)(a[2]), g = FN(tanh)(a[3]);
    vf cell = FN(fma)(f, LOAD(c), i * g);
    STORE(c, cell);
    STORE(h, o * FN(tanh)(cell));
}
// [/门的更新]

/* 一列里第 gate 个门的 V 个权重；一个权重 item 字节：4 是 float，2 是半精度，在寄存器里展宽 */
INLINE vf FN(weight)(const char *w, int gate, int item) {
    const char *p = w + gate * V * item;
    return item == 2 ? FN(widen)((const uint16_t *)p) : LOAD(p);
}

// [浮点点积]
/* 一片：m 个相邻的块 × n 行，第 b 块第 j 行的四个门是 acc[b·n + j]。一个权重读一次，用 n 次；行与块越多，互不相干的
 * 累加链就越多。每条链里都是一列接一列地加，所以怎样分片，结果一个比特也不变。m、n、item 是编译期常数，acc 全部住在寄存器里。
 * 几行一起算时乘加占得多，一块权重却比一级缓存大：提前 AHEAD 字节叫它过来，乘加就不用停下来等。 */
INLINE void FN(dot)(const char *w, int64_t next, int m, int item, int size, const float *x,
                    int64_t stride, int n, vf acc[][4]) {
    for (int k = 0; k < size; k++, w += 4 * V * item) {
        for (int line = 0; n > 1 && line < 4 * V * item; line += 64)
            __builtin_prefetch(w + AHEAD + line);
        for (int gate = 0; gate < 4; gate++)
            for (int b = 0; b < m; b++) {
                const vf weight = FN(weight)(w + b * next, gate, item);
                for (int j = 0; j < n; j++)
                    acc[b * n + j][gate] =
                        FN(fma)(weight, SPLAT(x[j * stride + k]), acc[b * n + j][gate]);
            }
    }
}
// [/浮点点积]

// [整数点积]
/* int8：一次读 4 列 × V 行的权重，x 的 4 个字节复制到每一道，一条指令 4V 次乘加。
 * size 已补成 4 的倍数；m、n 与上面一样。 */
INLINE void FN(dot8)(const int8_t *w, int64_t next, int m, int size, const int8_t *x,
                     int64_t stride, int n, vi acc[][4]) {
    for (int k = 0; k < size; k += 4, w += 16 * V)
        for (int b = 0; b < m; b++) {
            FN(vb) weight[4];
            for (int gate = 0; gate < 4; gate++)
                weight[gate] = *(const FN(ub) *)(w + b * next + gate * 4 * V);
            for (int j = 0; j < n; j++) {
                int32_t four;
                __builtin_memcpy(&four, x + j * stride + k, 4);
                for (int gate = 0; gate < 4; gate++)
                    acc[b * n + j][gate] = FN(dot4)(acc[b * n + j][gate], weight[gate], four);
            }
        }
}
// [/整数点积]

// [反量化]
/* 整数和 × 权重每行的步长 × 这一帧输入的步长，加到浮点的预激活值上。相邻两块的 offset 与 scale 相距 rows 个数。
 * done 不是 NULL 时是瓦片已经加好的那些列的和，只差不满 64 列的零头。 */
INLINE void FN(product8)(const int8_t *w, int64_t next, int m, int size, const int8_t *x,
                         const float *step, int n, const int32_t *offset, const float *scale,
                         int rows, const int32_t *done, vf acc[][4]) {
    vi sum[MOST][4];
    const int skip = done ? size / 64 * 64 : 0;
    for (int k = 0; k < m * n; k++)
        for (int gate = 0; gate < 4; gate++) {
            sum[k][gate] = DOT_OFFSET ? LOADI(offset + k / n * rows + gate * V) : (vi){0};
            if (done) sum[k][gate] += LOADI(done + (4 * k + gate) * V);
        }
    FN(dot8)(w + 4 * V * skip, next, m, size - skip, x + skip, size, n, sum);
    for (int k = 0; k < m * n; k++)
        for (int gate = 0; gate < 4; gate++)
            acc[k][gate] =
                FN(fma)(__builtin_convertvector(sum[k][gate], vf),
                        LOAD(scale + k / n * rows + gate * V) * step[k % n], acc[k][gate]);
}
// [/反量化]

/* 加上 x 或 h 这一部分的乘积：part = 0 是 x，1 是 h；unit 起的 m 块 × rows 的第 at 行起的 n 行。 */
INLINE void FN(product)(const lstm_cell *cell, int unit, int m, int part, const rows *in,
                        int64_t at, int n, int kind, const int32_t *done, vf acc[][4]) {
    const int64_t next = 4 * (int64_t)V * (in->size + in->other); /* 一块有多少个权重 */
    const int64_t start = unit / V * next + (part ? 4 * (int64_t)V * in->other : 0);
    if (kind == LSTM_INT8) {
        const int64_t row = 4 * (in->parts * (int64_t)unit + part * V);
        FN(product8)((const int8_t *)cell->weight + start, next, m, in->size, in->q + at * in->size,
                     in->step + at, n, cell->offset + row, cell->scale + row, 4 * in->parts * V,
                     done, acc);
    } else {
        const int item = ITEM(kind);
        FN(dot)((const char *)cell->weight + start * item, next * item, m, item, in->size,
                in->f + at * in->stride, in->stride, n, acc);
    }
}

// [一块]
/* 输入投影：n 行的 b + W x 存进 pre，留给后面逐帧的循环。 */
INLINE void FN(project_some)(const lstm_cell *cell, int unit, const rows *x, int64_t at, int n,
                             int kind, const int32_t *done, float *pre, int64_t units) {
    vf acc[MOST][4];
    for (int j = 0; j < n; j++)
        for (int gate = 0; gate < 4; gate++) acc[j][gate] = LOAD(cell->bias + 4 * unit + gate * V);
    FN(product)(cell, unit, 1, 0, x, at, n, kind, done, acc);
    for (int j = 0; j < n; j++)
        for (int gate = 0; gate < 4; gate++)
            STORE(pre + 4 * ((at + j) * units + unit) + gate * V, acc[j][gate]);
}

/* 一步：从 pre（没有就从 b + W x）出发，加上 U h，过门，写出新的 c 与 h。m 块 × n 个序列一起走。 */
INLINE void FN(advance_some)(const lstm_cell *cell, int unit, int m, const rows *x, const rows *h,
                             int64_t at, int n, int kind, const int32_t *done, const float *pre,
                             float *c, float *next, int64_t units) {
    vf acc[MOST][4];
    for (int k = 0; k < m * n; k++)
        for (int gate = 0; gate < 4; gate++)
            acc[k][gate] = LOAD((pre ? pre + 4 * (at + k % n) * units : cell->bias) +
                                4 * (unit + k / n * V) + gate * V);
    if (!pre) FN(product)(cell, unit, m, 0, x, at, n, kind, done ? done + TILE * 4 * V : NULL, acc);
    FN(product)(cell, unit, m, 1, h, at, n, kind, done, acc);
    for (int k = 0; k < m * n; k++) {
        const int64_t row = at + k % n, first = unit + k / n * V;
        FN(update)(acc[k], c + row * units + first, next + row * h->stride + first);
    }
}
// [/一块]

/* 用瓦片先算好 at 起的 16 行，64 列以下的零头留给 product8 */
INLINE void FN(tiles)(const lstm_cell *cell, int unit, int part, const rows *in, int64_t at,
                      int32_t *done) {
    const int64_t start =
        4 * unit * (int64_t)(in->size + in->other) + (part ? 4 * (int64_t)V * in->other : 0);
    tiles_dot((const int8_t *)cell->weight + start, V, in->size / 64 * 64, in->q + at * in->size,
              in->size, done);
}

// [分组]
/* 把 at 起到 end 为止的各行分成 MOST、4、2、1 行的小组；每组的行数是编译期常数，累加器才能全在寄存器里。
 * 组越大，一个权重用的次数越多：16 行在有 32 个寄存器的机器上是 6 + 6 + 4。 */
#define GROUPS(at, end, one)                                                                       \
    for (; end - at >= MOST; at += MOST) one(MOST);                                                \
    for (; MOST > 4 && end - at >= 4; at += 4) one(4);                                             \
    for (; end - at >= 2; at += 2) one(2);                                                         \
    for (; end - at >= 1; at += 1) one(1);
#define DONE (tiles ? done + 4 * V * (at % TILE) : NULL)
#define PROJECT(n) FN(project_some)(cell, unit, x, at, n, kind, DONE, pre, units)
#define ADVANCE(n) FN(advance_some)(cell, unit, 1, x, h, at, n, kind, DONE, pre, c, next, units)

/* int8 又有瓦片时一次 16 行，先用瓦片算好大部分列的和；此外都一次到底 */
INLINE void FN(project)(const lstm_cell *cell, int unit, const rows *x, int64_t count, int kind,
                        float *pre, int64_t units) {
    const int tiles = TILES && kind == LSTM_INT8 && x->tiles && x->size >= 64;
    int64_t at = 0;
    do {
        const int64_t end = tiles ? MIN(at + TILE, count) : count;
        int32_t done[TILE * 4 * V];
        if (tiles) FN(tiles)(cell, unit, 0, x, at, done);
        GROUPS(at, end, PROJECT)
    } while (TILES && at < count);
}

INLINE
void FN(advance)(const lstm_cell *cell, int unit, const rows *x, const rows *h, int64_t count,
                 int kind, const float *pre, float *c, float *next, int64_t units) {
    const int tiles = TILES && kind == LSTM_INT8 && h->tiles && h->size >= 64;
    int64_t at = 0;
    do {
        const int64_t end = tiles ? MIN(at + TILE, count) : count;
        int32_t done[2 * TILE * 4 * V];
        if (tiles) FN(tiles)(cell, unit, 1, h, at, done);
        if (tiles && !pre) FN(tiles)(cell, unit, 0, x, at, done + TILE * 4 * V);
        GROUPS(at, end, ADVANCE)
    } while (TILES && at < count);
}
// [/分组]

/* 线性层用的入口：kind 在这里变成编译期常数，三种各编译一份 */
static void FN(project_any)(const lstm_cell *cell, int unit, const rows *x, int64_t count, int kind,
                            float *pre, int64_t units) {
    if (kind == LSTM_INT8)
        FN(project)(cell, unit, x, count, LSTM_INT8, pre, units);
    else if (kind == LSTM_FLOAT16)
        FN(project)(cell, unit, x, count, LSTM_FLOAT16, pre, units);
    else
        FN(project)(cell, unit, x, count, LSTM_FLOAT32, pre, units);
}

// [四点变换]
/* V 个长 4 的变换并排做：乘 ±1、±i 只是加减与对调，再乘旋转因子。x 的四份相距 step 个数，结果在 yr、yi。 */
INLINE void FN(fft4)(const float *xr, const float *xi, int step, const vf c[3], const vf d[3],
                     vf yr[4], vf yi[4]) {
    const vf ar = LOAD(xr) + LOAD(xr + 2 * step), ai = LOAD(xi) + LOAD(xi + 2 * step);
    const vf br = LOAD(xr) - LOAD(xr + 2 * step), bi = LOAD(xi) - LOAD(xi + 2 * step);
    const vf er = LOAD(xr + step) + LOAD(xr + 3 * step);
    const vf ei = LOAD(xi + step) + LOAD(xi + 3 * step);
    const vf fr = LOAD(xi + step) - LOAD(xi + 3 * step); /* 乘 -i：虚部变实部 */
    const vf fi = LOAD(xr + 3 * step) - LOAD(xr + step);
    const vf ur[3] = {br + fr, ar - er, br - fr}, ui[3] = {bi + fi, ai - ei, bi - fi};
    yr[0] = ar + er, yi[0] = ai + ei;
    for (int k = 0; k < 3; k++) {
        yr[k + 1] = ur[k] * c[k] - ui[k] * d[k];
        yi[k + 1] = ur[k] * d[k] + ui[k] * c[k];
    }
}

/* 一遍里 q 从 0 到 s 的那一排：旋转因子相同，读与写都连着 */
INLINE void FN(fft_row)(const float *xr, const float *xi, int step, const float c[3],
                        const float d[3], int s, float *yr, float *yi) {
    const vf zero = {0}, cv[3] = {zero + c[0], zero + c[1], zero + c[2]};
    const vf dv[3] = {zero + d[0], zero + d[1], zero + d[2]};
    for (int q = 0; q < s; q += V) {
        vf r[4], i[4];
        FN(fft4)(xr + q, xi + q, step, cv, dv, r, i);
        for (int k = 0; k < 4; k++) STORE(yr + q + k * s, r[k]), STORE(yi + q + k * s, i[k]);
    }
}
// [/四点变换]

#undef vf
#undef vi
#undef LOAD
#undef LOADI
#undef STORE
#undef SPLAT
#undef FN
#undef GROUPS
#undef DONE
#undef PROJECT
#undef ADVANCE
