/* 一个帧移的全部工作，随 kernel.c 按每个指令集级别各编译一次。 */
#include "enhancer.h"

// [FFT]
/* 一遍 Stockham：把长 r·m 的变换拆成 r 个长 m 的，s 个这样的变换并排放着；x、y 交替当输入与输出，用不着倒位序。
 * 旋转因子 w[k] = e^{-2πik/(r·m·s)}，取第 p·k·s 个。
 * r = 4 的几遍总在最前面，s 是 1、4、16……：从第二遍起，连着的 s 个用同一个旋转因子；第一遍连着的 4 个各用各的，
 * 写的时候行列对调。返回做完了几个 p，剩下的（第一遍里不足 4 个的零头）归 fft_pass。 */
static int fft_pass4(const fft_plan *plan, int m, int s, const float *xr, const float *xi,
                     float *yr, float *yi) {
    const float *cosine = plan->cosine, *sine = plan->sine;
    int p = 0;
    for (; s == 1 && p + 4 <= m; p += 4) {
        v4f c[3], d[3], r[4], i[4];
        for (int k = 0; k < 3; k++) {
            const int step = k + 1, t = p * step;
            c[k] = (v4f){cosine[t], cosine[t + step], cosine[t + 2 * step], cosine[t + 3 * step]};
            d[k] = (v4f){sine[t], sine[t + step], sine[t + 2 * step], sine[t + 3 * step]};
        }
        fft4_4(xr + p, xi + p, m, c, d, r, i);
        for (int j = 0; j < 4; j++)
            for (int k = 0; k < 4; k++)
                yr[4 * (p + j) + k] = r[k][j], yi[4 * (p + j) + k] = i[k][j];
    }
    for (; s > 1 && p < m; p++) {
        const int t = p * s;
        const float c[3] = {cosine[t], cosine[2 * t], cosine[3 * t]};
        const float d[3] = {sine[t], sine[2 * t], sine[3 * t]};
        if (s % WIDE == 0)
            WIDE_FN(fft_row)(xr + t, xi + t, m * s, c, d, s, yr + 4 * t, yi + 4 * t);
        else
            fft_row_4(xr + t, xi + t, m * s, c, d, s, yr + 4 * t, yi + 4 * t);
    }
    return p;
}

/* 别的因子（2、3、5……），p 从 done 起：按定义求和，r² 次乘加 */
static void fft_pass(const fft_plan *plan, int r, int m, int s, int done, const float *xr,
                     const float *xi, float *yr, float *yi) {
    const int size = plan->size;
    for (int p = done; p < m; p++)
        for (int k = 0; k < r; k++)
            for (int q = 0; q < s; q++) {
                float re = 0, im = 0;
                for (int j = 0; j < r; j++) {
                    const int from = q + s * (p + m * j);
                    const int64_t turn = ((int64_t)j * (size / r) + (int64_t)p * s) * k % size;
                    const float c = plan->cosine[turn], d = plan->sine[turn];
                    re += xr[from] * c - xi[from] * d;
                    im += xr[from] * d + xi[from] * c;
                }
                yr[q + s * (r * p + k)] = re, yi[q + s * (r * p + k)] = im;
            }
}

/* 复数 FFT：输入在 a[0]、a[1]（实部、虚部），a[2]、a[3] 是草稿；返回结果在 a 的第 0 还是第 2 个起。 */
static int fft(const fft_plan *plan, float *const a[4]) {
    int n = plan->size, s = 1, at = 0;
    for (int k = 0; k < plan->count; k++, at ^= 2) {
        const int r = plan->factor[k], m = n / r, to = at ^ 2;
        const int done = r == 4 ? fft_pass4(plan, m, s, a[at], a[at + 1], a[to], a[to + 1]) : 0;
        fft_pass(plan, r, m, s, done, a[at], a[at + 1], a[to], a[to + 1]);
        n = m, s *= r;
    }
    return at;
}
// [/FFT]

// [实数的 FFT]
/* 拆与并的循环里，一个下标往前走，一个从末尾往回走；restrict 说各数组不重叠，编译器才肯把它们变成向量。 */
static void split(const fft_plan *plan, const float *restrict zr, const float *restrict zi,
                  float *restrict re, float *restrict im) {
    const int size = plan->size;
    const float *back_r = zr + size, *back_i = zi + size;
    re[0] = zr[0] + zi[0], im[0] = 0;
    re[size] = zr[0] - zi[0], im[size] = 0;
    for (int k = 1; k < size; k++) {
        const float er = 0.5f * (zr[k] + back_r[-k]), ei = 0.5f * (zi[k] - back_i[-k]);
        const float odd_r = 0.5f * (zi[k] + back_i[-k]), odd_i = 0.5f * (back_r[-k] - zr[k]);
        const float c = plan->half_c[k], s = plan->half_s[k];
        re[k] = er + (odd_r * c - odd_i * s), im[k] = ei + (odd_r * s + odd_i * c);
    }
}

static void merge(const fft_plan *plan, const float *restrict re, const float *restrict im,
                  float *restrict zr, float *restrict zi) {
    const int size = plan->size;
    const float *back_r = re + size, *back_i = im + size;
    for (int k = 0; k < size; k++) {
        const float er = re[k] + back_r[-k], ei = im[k] - back_i[-k];
        const float dr = re[k] - back_r[-k], di = im[k] + back_i[-k];
        const float c = plan->half_c[k], s = -plan->half_s[k];
        const float odd_r = dr * c - di * s, odd_i = dr * s + di * c;
        zr[k] = er - odd_i, zi[k] = ei + odd_r;
    }
    zr[0] = re[0] + re[size], zi[0] = re[0] - re[size]; /* 直流与奈奎斯特都是实数 */
}

/* 实数序列的谱：偶数号当实部、奇数号当虚部，做一个长度减半的复数变换，再拆开。re、im 各 size + 1 个。 */
static void real_fft(const fft_plan *plan, const float *x, float *const a[4], float *re,
                     float *im) {
    for (int k = 0; k < plan->size; k++) a[0][k] = x[2 * k], a[1][k] = x[2 * k + 1];
    const int at = fft(plan, a);
    split(plan, a[at], a[at + 1], re, im);
}

/* 逆变换，结果是 n_fft 倍（除法并进合成窗）：先并成长度减半的复数谱；逆变换就是把实部与虚部对调的正变换。 */
static void real_ifft(const fft_plan *plan, const float *re, const float *im, float *const a[4],
                      float *x) {
    merge(plan, re, im, a[1], a[0]);
    const int at = fft(plan, a);
    for (int k = 0; k < plan->size; k++) x[2 * k] = a[at + 1][k], x[2 * k + 1] = a[at][k];
}
// [/实数的 FFT]

// [一组帧移]
static void some_hops(enhancer *e, const float *in, float *out, int count) {
    const lstm_model *model = e->model;
    const int n_fft = model->n_fft, hop = model->hop_length, bins = n_fft / 2 + 1;
    const int row = (bins + 15) / 16 * 16, first = model->first_bin, kept = n_fft - hop;
    memcpy(e->history + kept, in, sizeof *in * (size_t)count * (size_t)hop);
    for (int t = 0; t < count; t++) { /* 分析：加窗、FFT、幅度谱 */
        float *re = e->re + t * row, *im = e->im + t * row, *x = e->x + t * model->input_size;
        const float *wave = e->history + t * hop;
        for (int k = 0; k < n_fft; k++) e->frame[k] = wave[k] * e->analysis[k];
        real_fft(&e->plan, e->frame, e->parts, re, im);
        for (int k = 0; k < model->input_size; k++) {
            const float a = re[k + first], b = im[k + first];
            x[k] = sqrtf(a * a + b * b);
        }
    }
    memmove(e->history, e->history + count * hop, sizeof *in * (size_t)kept);
    run(&e->lstm, e->x, e->h, count);
    if (model->head)
        dense(&model->net, model->head, model->sigmoid, e->h, e->mask, count, e->head_scratch);
    else if (model->sigmoid)
        apply_sigmoid(e->h, e->mask, (int64_t)count * bins);
    else
        memcpy(e->mask, e->h, sizeof *in * (size_t)count * (size_t)bins);
    for (int t = 0; t < count; t++) { /* 合成：掩蔽、逆变换、加窗、重叠相加 */
        float *re = e->re + t * row, *im = e->im + t * row;
        const float *mask = e->mask + (int64_t)t * bins;
        for (int k = 0; k < bins; k++) re[k] *= mask[k], im[k] *= mask[k];
        real_ifft(&e->plan, re, im, e->parts, e->frame);
        for (int k = 0; k < n_fft; k++) e->overlap[k] += e->frame[k] * e->synthesis[k];
        memcpy(out + t * hop, e->overlap, sizeof *out * (size_t)hop);
        memmove(e->overlap, e->overlap + hop, sizeof *out * (size_t)kept);
        memset(e->overlap + kept, 0, sizeof *out * (size_t)hop);
    }
}
// [/一组帧移]

static void hops(enhancer *e, const float *in, float *out, int64_t count) {
    const uint64_t mode = flush_denormals();
    const int64_t hop = e->model->hop_length;
    while (count > 0) {
        const int some = (int)MIN(count, e->group);
        some_hops(e, in, out, some);
        in += some * hop, out += some * hop, count -= some;
    }
    restore_denormals(mode);
}
