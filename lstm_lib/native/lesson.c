/* 教学程序，“上设备”一章用：把链里的实数 FFT 单独露出来，好与 NumPy 对照、单独计时。 */
#include "kernel.c"

#include "enhancer.c"

void *lesson_open(const void *model, int64_t bytes) {
    enhancer_error error;
    return enhancer_open(model, bytes, NULL, &error);
}

/* 同一帧 x（n_fft 个数）正变换、逆变换各 times 遍：re、im 各 n_fft/2 + 1 个，back 是 n_fft 倍的 x */
void lesson_fft(void *opened, const float *x, float *re, float *im, float *back, int64_t times) {
    enhancer *e = opened;
    for (int64_t k = 0; k < times; k++) {
        real_fft(&e->plan, x, e->parts, re, im);
        real_ifft(&e->plan, re, im, e->parts, back);
    }
}

void lesson_close(void *opened) { enhancer_close(opened); }
