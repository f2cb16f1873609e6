/* 教学程序，“上设备”一章用：换一个编译选项，或换一种处理器，结果就变的几段代码。 */
#include <math.h>
#include <stdint.h>

// [有没有符号]
int32_t trap_sum(const char *w, int32_t n) { /* 一行 int8 权重之和；该写 int8_t，却写成了 char */
    int32_t sum = 0;
    for (int32_t k = 0; k < n; k++) sum += w[k];
    return sum;
}
// [/有没有符号]

// [拦坏数]
int32_t trap_bad(const float *x, int32_t n) { /* 有没有不能用的样点：NaN 与谁比都是假，取反就是真 */
    int32_t bad = 0;
    for (int32_t k = 0; k < n; k++) bad |= !(fabsf(x[k]) <= 1e6f);
    return bad;
}
// [/拦坏数]

// [乘积之差]
float trap_difference(float a, float b, float c, float d) { return a * b - c * d; }
// [/乘积之差]

// [没有对齐]
float trap_read(const uint8_t *p) { return *(const float *)p; } /* 该用 memcpy，却把指针一转就读 */
// [/没有对齐]

// [栈上的草稿]
float trap_stack(float x) { /* 草稿写成局部数组：256 KB 全在栈上 */
    volatile float buffer[65536];
    for (int32_t k = 65536; k-- > 0;) buffer[k] = x;
    return buffer[0] + buffer[65535];
}
// [/栈上的草稿]
