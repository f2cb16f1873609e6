/* “从公式到 C”一章的头三步，以及屋顶线要用的两把尺子。内核本身不用这个文件。 */
#include "lstm.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))
#include "isa.h"

static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// [第一步]
/* 六条公式直译。权重就是 PyTorch 的摆法：[4H][I] 与 [4H][H]，门顺序 i f g o。 */
void lstm_loops(int inputs, int hidden, const float *w_ih, const float *w_hh, const float *bias,
                const float *x, float *y, const float *h, float *c, int64_t frames) {
    for (int64_t t = 0; t < frames; t++, x += inputs, h = y, y += hidden)
        for (int unit = 0; unit < hidden; unit++) {
            float z[4];
            for (int gate = 0; gate < 4; gate++) {
                const int row = gate * hidden + unit;
                z[gate] = bias[row];
                for (int k = 0; k < inputs; k++) z[gate] += w_ih[row * inputs + k] * x[k];
                for (int k = 0; k < hidden; k++) z[gate] += w_hh[row * hidden + k] * h[k];
            }
            c[unit] = sigmoid(z[1]) * c[unit] + sigmoid(z[0]) * tanhf(z[2]);
            y[unit] = sigmoid(z[3]) * tanhf(c[unit]);
        }
}
// [/第一步]

// [第二步]
/* 打包：[单元][列][I F O G]。一个单元的全部权重连在一起，每读四个相邻的数，四个门各进一步。 */
void lstm_packed(int inputs, int hidden, const float *w, const float *bias, const float *x,
                 float *y, const float *h, float *c, int64_t frames) {
    for (int64_t t = 0; t < frames; t++, x += inputs, h = y, y += hidden) {
        const float *four = w;
        for (int unit = 0; unit < hidden; unit++) {
            float z[4];
            memcpy(z, bias + 4 * unit, sizeof z);
            for (int k = 0; k < inputs; k++, four += 4)
                for (int gate = 0; gate < 4; gate++) z[gate] += four[gate] * x[k];
            for (int k = 0; k < hidden; k++, four += 4)
                for (int gate = 0; gate < 4; gate++) z[gate] += four[gate] * h[k];
            c[unit] = sigmoid(z[1]) * c[unit] + sigmoid(z[0]) * tanhf(z[3]);
            y[unit] = sigmoid(z[2]) * tanhf(c[unit]);
        }
    }
}
// [/第二步]

typedef float wide __attribute__((vector_size(4 * WIDE)));
typedef int32_t wide_i __attribute__((vector_size(4 * WIDE)));
typedef int8_t wide_b __attribute__((vector_size(4 * WIDE)));
enum { CHAINS = 12 };

// [第三步]
/* 一块 WIDE 个单元、一行输入：一列里四个门的权重各装满一个向量，四个累加器就是这些单元的四个门。 */
void lstm_block(const float *w, const float *x, int size, float *z) {
    wide acc[4] = {{0}};
    for (int k = 0; k < size; k++, w += 4 * WIDE)
        for (int gate = 0; gate < 4; gate++) acc[gate] += *(const wide *)(w + gate * WIDE) * x[k];
    memcpy(z, acc, sizeof acc);
}
// [/第三步]

/* 带宽：把 bytes 字节读 times 遍。次序与内核相同：一遍从头到尾，下一遍从尾到头；一次读 8 个向量。
 * memory 要按 64 字节对齐，否则每次读都跨两条缓存行，量得的带宽偏低。 */
int32_t lstm_read(const void *memory, int64_t bytes, int64_t times) {
    wide_i sum[8] = {{0}};
    const int64_t groups = bytes / (int64_t)sizeof sum;
    for (int64_t again = 0; again < times; again++) {
        for (int64_t k = 0; k < groups; k++) {
            const wide_i *p = (const wide_i *)memory + 8 * (again & 1 ? groups - 1 - k : k);
            for (int j = 0; j < 8; j++) sum[j] ^= p[j];
        }
        __asm__ volatile("" : : : "memory");
    }
    for (int j = 1; j < 8; j++) sum[0] ^= sum[j];
    return sum[0][0];
}

/* 峰值：互不相干的乘加链。返回做了多少次乘加。
 * 各链的初值不同，编译器才不会看出它们一模一样，只算一条。 */
int64_t lstm_peak_float(int64_t times, float *out) {
    wide acc[CHAINS], x = (wide){0} + *out;
    for (int j = 0; j < CHAINS; j++) acc[j] = x + (float)j;
    for (int64_t k = 0; k < times; k++)
        for (int j = 0; j < CHAINS; j++) acc[j] = acc[j] * x + x;
    for (int j = 1; j < CHAINS; j++) acc[0] += acc[j];
    *out = acc[0][0];
    return times * CHAINS * WIDE;
}

/* 与内核的内层循环一样：四个门、三帧。权重每次都从一级缓存读，免得编译器把不变的部分提到循环外面；
 * 三个小循环套在外层里，GCC 才会早早展开，累加器才住得进寄存器。 */
int64_t lstm_peak_int8(int64_t times, int32_t *out) {
    enum { BURST = 256 };
    wide_i sum = {0};
    wide_b w[4];
    int32_t x[CHAINS / 4];
    for (int gate = 0; gate < 4; gate++) w[gate] = (wide_b){0} + (int8_t)(*out + gate);
    for (int j = 0; j < CHAINS / 4; j++) x[j] = *out + j;
    for (int64_t again = 0; again < times; again++) {
        wide_i acc[CHAINS];
        for (int j = 0; j < CHAINS; j++) acc[j] = sum;
        for (int k = 0; k < BURST; k++) {
            __asm__ volatile("" : "+m"(w), "+m"(x));
            for (int j = 0; j < CHAINS; j++) acc[j] = JOIN(dot4, WIDE)(acc[j], w[j % 4], x[j / 4]);
        }
        for (int j = 0; j < CHAINS; j++) sum ^= acc[j];
    }
    *out = sum[0];
    return times * BURST * CHAINS * WIDE * 4;
}
