/* 随指令集而变的只有五样：4 字节点积、融合乘加、半精度的展宽、NaN 不丢的截断、把非规格化数当零的开关。
 * 其余都用向量扩展写成同一份。
 *
 * 这一遍编译的是哪个级别，看 LEVEL，不看 __AVX2__ 之类的宏：几个级别写在同一个文件里的时候（两个文件的发行版），
 * Clang 换了指令集，那些宏却不跟着变。 */
#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define AT_portable 0
#define AT_avx2 1
#define AT_avx512 2
#define AT_neon_dot 3
#define AT_wasm 4
#define AT_wasm_relaxed 5
#define ISA JOIN(AT, LEVEL)

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

typedef float v4f __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));
typedef int8_t v16b __attribute__((vector_size(16)));

// [四字节点积]
/* dot4：每道 acc += w[0]x[0] + w[1]x[1] + w[2]x[2] + w[3]x[3]，x 的 4 个字节各道相同。 */
#if ISA == AT_avx512
/* vpdpbusd 是无符号×有符号：x 存成 x+128，多出的 128·Σw 事先记在 offset 里。 */
#define DOT_OFFSET 1
INLINE v4i dot4_4(v4i acc, v16b w, int32_t x) {
    return (v4i)_mm_dpbusd_epi32((__m128i)acc, _mm_set1_epi32(x), (__m128i)w);
}
#elif ISA == AT_avx2
/* vpmaddubsw 也是无符号×有符号，成对相加会饱和到 int16：
 * 用 |x| 与 sign(w, x)，2·127·127 < 32768 就不会。 */
#define DOT_OFFSET 0
INLINE v4i dot4_4(v4i acc, v16b w, int32_t x) {
    __m128i xs = _mm_set1_epi32(x);
    __m128i pairs = _mm_maddubs_epi16(_mm_abs_epi8(xs), _mm_sign_epi8((__m128i)w, xs));
    return acc + (v4i)_mm_madd_epi16(pairs, _mm_set1_epi16(1));
}
#elif defined(__SSE2__)
/* 最早的 x86-64：字节扩成 int16，pmaddwd 两两相乘再加，余下的一半换换位置相加。整数，没有舍入。 */
#define DOT_OFFSET 0
INLINE v4i dot4_4(v4i acc, v16b w, int32_t x) {
    const __m128i bytes = (__m128i)w, twice = _mm_set1_epi32(x);
    const __m128i xs = _mm_srai_epi16(_mm_unpacklo_epi8(twice, twice), 8);
    const __m128i low = _mm_madd_epi16(_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8), xs);
    const __m128i high = _mm_madd_epi16(_mm_srai_epi16(_mm_unpackhi_epi8(bytes, bytes), 8), xs);
    const __m128 even = _mm_shuffle_ps((__m128)low, (__m128)high, _MM_SHUFFLE(2, 0, 2, 0));
    const __m128 odd = _mm_shuffle_ps((__m128)low, (__m128)high, _MM_SHUFFLE(3, 1, 3, 1));
    return acc + (v4i)even + (v4i)odd;
}
#elif ISA == AT_neon_dot
#define DOT_OFFSET 0
INLINE v4i dot4_4(v4i acc, v16b w, int32_t x) {
    return (v4i)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)vdupq_n_s32(x));
}
#elif defined(__ARM_NEON)
#define DOT_OFFSET 0
INLINE v4i dot4_4(v4i acc, v16b w, int32_t x) {
    const int8x8_t xs = (int8x8_t)vdup_n_s32(x);
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8((int8x16_t)w), xs));
    const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8((int8x16_t)w), xs));
#ifdef __aarch64__
    return acc + (v4i)vpaddq_s32(low, high);
#else /* ARMv7 只有半个寄存器宽的 vpadd */
    return acc + (v4i)vcombine_s32(vpadd_s32(vget_low_s32(low), vget_high_s32(low)),
                                   vpadd_s32(vget_low_s32(high), vget_high_s32(high)));
#endif
}
#elif ISA == AT_wasm_relaxed
/* 第二个操作数只许 7 位（0…127）：用 |x|，x 的符号搬到 w 上，同 AVX2 那一级。
 * 乘积两两相加不出 int16，所以不论浏览器编译成哪条指令，结果都一样。 */
#define DOT_OFFSET 0
INLINE v4i dot4_4(v4i acc, v16b w, int32_t x) {
    const v128_t xs = wasm_i32x4_splat(x), minus = wasm_i8x16_shr(xs, 7);
    const v128_t signed_w = wasm_i8x16_sub(wasm_v128_xor((v128_t)w, minus), minus);
    return (v4i)wasm_i32x4_relaxed_dot_i8x16_i7x16_add(signed_w, wasm_i8x16_abs(xs), (v128_t)acc);
}
#elif ISA == AT_wasm
/* 字节相乘得 int16，两两相加得 int32，余下的一半换换位置相加。整数，没有舍入。 */
#define DOT_OFFSET 0
INLINE v4i dot4_4(v4i acc, v16b w, int32_t x) {
    const v128_t xs = wasm_i32x4_splat(x), bytes = (v128_t)w;
    const v128_t low = wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extmul_low_i8x16(bytes, xs));
    const v128_t high = wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extmul_high_i8x16(bytes, xs));
    return acc + (v4i)wasm_i32x4_shuffle(low, high, 0, 2, 4, 6) +
           (v4i)wasm_i32x4_shuffle(low, high, 1, 3, 5, 7);
}
#else
#define DOT_OFFSET 0
INLINE v4i dot4_4(v4i acc, v16b w, int32_t x) {
    int8_t four[4];
    __builtin_memcpy(four, &x, 4);
    for (int lane = 0; lane < 4; lane++)
        for (int k = 0; k < 4; k++) acc[lane] += w[4 * lane + k] * four[k];
    return acc;
}
#endif
// [/四字节点积]

/* x86 的 min/max 遇到 NaN 返回第二个操作数，NEON 的直接传 NaN：这样写 NaN 都不会丢。 */
#if defined(__SSE2__)
INLINE v4f min_4(v4f limit, v4f x) { return (v4f)_mm_min_ps((__m128)limit, (__m128)x); }
INLINE v4f max_4(v4f limit, v4f x) { return (v4f)_mm_max_ps((__m128)limit, (__m128)x); }
#elif defined(__ARM_NEON)
INLINE v4f min_4(v4f limit, v4f x) { return (v4f)vminq_f32((float32x4_t)limit, (float32x4_t)x); }
INLINE v4f max_4(v4f limit, v4f x) { return (v4f)vmaxq_f32((float32x4_t)limit, (float32x4_t)x); }
#elif defined(__wasm_simd128__)
/* pmin(a, b) 是 b < a ? b : a：x 放前面，NaN 就留下 */
INLINE v4f min_4(v4f limit, v4f x) { return (v4f)wasm_f32x4_pmin((v128_t)x, (v128_t)limit); }
INLINE v4f max_4(v4f limit, v4f x) { return (v4f)wasm_f32x4_pmax((v128_t)x, (v128_t)limit); }
#else
INLINE v4f blend_4(v4i mask, v4f yes, v4f no) {
    return (v4f)((mask & (v4i)yes) | (~mask & (v4i)no));
}
INLINE v4f min_4(v4f limit, v4f x) { return blend_4(x > limit, limit, x); }
INLINE v4f max_4(v4f limit, v4f x) { return blend_4(x < limit, limit, x); }
#endif

// [融合乘加]
/* 融合乘加 a·b + c：只舍入一次。编译器自己合并乘与加时，合并哪一对由它挑，换个编译器结果就差一位；
 * 所以关掉自动合并（-ffp-contract=off），要合并的地方写明。没有这条指令的级别先乘后加。 */
#if ISA == AT_avx512 || ISA == AT_avx2
INLINE v4f fma_4(v4f a, v4f b, v4f c) { return (v4f)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c); }
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
INLINE v4f fma_4(v4f a, v4f b, v4f c) {
    return (v4f)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
#else
INLINE v4f fma_4(v4f a, v4f b, v4f c) { return a * b + c; }
#endif
// [/融合乘加]

// [半精度]
/* 四个半精度数（IEEE binary16：1 位符号、5 位指数、10 位尾数）展宽成 float，一位不差，非规格化数也是。
 * 这几条指令不看上面说的“当零”的开关。不会遇到 NaN 与无穷：打包时已经拒绝。 */
typedef uint16_t v4h __attribute__((vector_size(8), aligned(2), may_alias));
#if ISA == AT_avx512 || ISA == AT_avx2
INLINE v4f widen_4(const uint16_t *p) {
    return (v4f)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)p));
}
#elif defined(__aarch64__)
INLINE v4f widen_4(const uint16_t *p) { return (v4f)vcvt_f32_f16((float16x4_t)vld1_u16(p)); }
#else
/* 没有这种指令：尾数与指数移到 float 的位置，指数再加上 127 - 15。指数是 0 的没有隐含的 1，这样得到的是
 * v = 2⁻¹⁵(1 + m)，应是 2⁻¹⁴m = 2v - 2⁻¹⁴。别的 v 不小于 2⁻¹⁴，2v - 2⁻¹⁴ 不比它小：所以都取两者中小的。 */
INLINE v4f widen_4(const uint16_t *p) {
#if defined(__SSE2__)
    const v4i bits = (v4i)_mm_unpacklo_epi16((__m128i){0}, _mm_loadl_epi64((const __m128i *)p));
#else
    const v4i bits = __builtin_convertvector(*(const v4h *)p, v4i) << 16;
#endif
    const v4i sign = bits & INT32_MIN;
    const v4f v = (v4f)(((bits ^ sign) >> 3) + (112 << 23));
    return (v4f)((v4i)min_4(v, v + v - 0x1p-14f) | sign);
}
#endif
// [/半精度]

#if ISA == AT_avx512
#define WIDE 16
typedef float v16f __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef int8_t v64b __attribute__((vector_size(64)));
INLINE v16i dot4_16(v16i acc, v64b w, int32_t x) {
    return (v16i)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32(x), (__m512i)w);
}
INLINE v16f fma_16(v16f a, v16f b, v16f c) {
    return (v16f)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
INLINE v16f widen_16(const uint16_t *p) {
    return (v16f)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE v16f min_16(v16f limit, v16f x) { return (v16f)_mm512_min_ps((__m512)limit, (__m512)x); }
INLINE v16f max_16(v16f limit, v16f x) { return (v16f)_mm512_max_ps((__m512)limit, (__m512)x); }
#elif ISA == AT_avx2
#define WIDE 8
typedef float v8f __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));
typedef int8_t v32b __attribute__((vector_size(32)));
INLINE v8i dot4_8(v8i acc, v32b w, int32_t x) {
    __m256i xs = _mm256_set1_epi32(x);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(xs), _mm256_sign_epi8((__m256i)w, xs));
    return acc + (v8i)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
INLINE v8f fma_8(v8f a, v8f b, v8f c) {
    return (v8f)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
INLINE v8f widen_8(const uint16_t *p) {
    return (v8f)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
INLINE v8f min_8(v8f limit, v8f x) { return (v8f)_mm256_min_ps((__m256)limit, (__m256)x); }
INLINE v8f max_8(v8f limit, v8f x) { return (v8f)_mm256_max_ps((__m256)limit, (__m256)x); }
#else
#define WIDE 4
#endif

// [非规格化数]
/* 数字静音会让 c 衰减成非规格化数，有的处理器会慢许多倍：进内核时令其为零，出去时恢复调用者原来的设置。 */
#if defined(__SSE2__)
INLINE uint64_t flush_denormals(void) {
    unsigned old = _mm_getcsr();
    _mm_setcsr(old | 0x8040); /* FTZ（结果）与 DAZ（操作数） */
    return old;
}
INLINE void restore_denormals(uint64_t old) { _mm_setcsr((unsigned)old); }
#elif defined(__aarch64__)
INLINE uint64_t flush_denormals(void) {
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"(old | (1u << 24)));
    return old;
}
INLINE void restore_denormals(uint64_t old) { __asm__ volatile("msr fpcr, %0" : : "r"(old)); }
#elif defined(__arm__) && defined(__ARM_FP)
INLINE uint64_t flush_denormals(void) { /* NEON 总是当零；这一位管标量的指令 */
    uint32_t old;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(old));
    __asm__ volatile("vmsr fpscr, %0" : : "r"(old | (1u << 24)));
    return old;
}
INLINE void restore_denormals(uint64_t old) {
    __asm__ volatile("vmsr fpscr, %0" : : "r"((uint32_t)old));
}
#else
INLINE uint64_t flush_denormals(void) { return 0; }
INLINE void restore_denormals(uint64_t old) { (void)old; }
#endif
// [/非规格化数]
