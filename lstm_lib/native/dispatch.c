/* 运行时选指令集：编译时每个级别都在，运行时问 CPU 支持哪一个。 */
#include "lstm.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#ifdef HAVE_PORTABLE
extern const lstm_level lstm_level_portable;
#endif
#ifdef HAVE_AVX2
extern const lstm_level lstm_level_avx2;
#endif
#ifdef HAVE_AVX512
extern const lstm_level lstm_level_avx512;
#endif
#ifdef HAVE_NEON_DOT
extern const lstm_level lstm_level_neon_dot;
#endif
#ifdef HAVE_WASM
extern const lstm_level lstm_level_wasm;
#endif
#ifdef HAVE_WASM_RELAXED
extern const lstm_level lstm_level_wasm_relaxed;
#endif

static const lstm_level *const levels[LSTM_LEVELS] = {
#ifdef HAVE_PORTABLE
    [LSTM_PORTABLE] = &lstm_level_portable,
#endif
#ifdef HAVE_AVX2
    [LSTM_AVX2] = &lstm_level_avx2,
#endif
#ifdef HAVE_AVX512
    [LSTM_AVX512] = &lstm_level_avx512,
#endif
#ifdef HAVE_NEON_DOT
    [LSTM_NEON_DOT] = &lstm_level_neon_dot,
#endif
#ifdef HAVE_WASM
    [LSTM_WASM] = &lstm_level_wasm,
#endif
#ifdef HAVE_WASM_RELAXED
    [LSTM_WASM_RELAXED] = &lstm_level_wasm_relaxed,
#endif
};

#if defined(__x86_64__) || defined(_M_X64)
static int cpu_has(int level) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned need = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29; /* FMA、OSXSAVE、AVX、F16C */
    if ((c & need) != need) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); /* 操作系统是否保存这些寄存器 */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const int avx2 = (low & 0x06) == 0x06 && (b >> 5 & 1);
    if (level == LSTM_AVX2) return avx2;
    const unsigned f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    const int vnni = c >> 11 & 1;
    return avx2 && (low & 0xe6) == 0xe6 && (b & f_dq_bw_vl) == f_dq_bw_vl && vnni;
}
#elif defined(__aarch64__) && defined(__linux__)
static int cpu_has(int level) {
    return level == LSTM_NEON_DOT && (getauxval(AT_HWCAP) >> 20 & 1); /* ASIMDDP */
}
#elif defined(__aarch64__) && defined(__APPLE__)
static int cpu_has(int level) { return level == LSTM_NEON_DOT; }
#elif defined(__wasm__)
/* 模块里有一条不认识的指令，浏览器就整个不收：能运行到这里，编译进来的级别就都能用 */
static int cpu_has(int level) { return level == LSTM_WASM || level == LSTM_WASM_RELAXED; }
#else
static int cpu_has(int level) { return (void)level, 0; }
#endif

int lstm_level_supported(int level) {
    return level >= 0 && level < LSTM_LEVELS && levels[level] &&
           (level == LSTM_PORTABLE || cpu_has(level));
}

/* 瓦片寄存器有 8 KB，Linux 要进程开口才肯保存它们；也可能被沙箱拒绝，那就不用。 */
int lstm_tiles_supported(int level) {
#if defined(__x86_64__) && defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d, low, high;
    if (level != LSTM_AVX512 || !lstm_level_supported(level)) return 0;
    const unsigned tile_int8 = 1u << 24 | 1u << 25, saved = 1u << 17 | 1u << 18;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tile_int8) != tile_int8) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & saved) == saved && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA);
#else
    return (void)level, 0;
#endif
}

int lstm_level_width(int level) { return levels[level]->width; }

int64_t lstm_scratch_bytes(const lstm_net *net, int64_t frames, int32_t batch) {
    return levels[net->level]->scratch_bytes(net, frames, batch);
}

void lstm_run(lstm_stream *s, const float *x, float *y, int64_t frames) {
    levels[s->net->level]->run(s, x, y, frames);
}

int64_t lstm_dense_bytes(const lstm_net *net, const lstm_cell *layer, int64_t rows) {
    return levels[net->level]->dense_bytes(net, layer, rows);
}

void lstm_dense(const lstm_net *net, const lstm_cell *layer, int sigmoid, const float *x, float *y,
                int64_t rows, void *scratch) {
    levels[net->level]->dense(net, layer, sigmoid, x, y, rows, scratch);
}

/* 已经查过、算好草稿的一段：见 enhancer.c */
void lstm_hops(int level, struct enhancer *e, const float *in, float *out, int64_t hops) {
    levels[level]->hops(e, in, out, hops);
}

/* 在 C 里把同一次调用重复 times 遍：与 Python 里的循环相比，就知道 Python 占多少。 */
void lstm_repeat(lstm_stream *s, const float *x, float *y, int64_t times) {
    for (int64_t k = 0; k < times; k++) lstm_run(s, x, y, 1);
}

void lstm_tanh(int level, const float *x, float *y, int64_t n) { levels[level]->tanh(x, y, n); }
void lstm_sigmoid(int level, const float *x, float *y, int64_t n) {
    levels[level]->sigmoid(x, y, n);
}
