/* 权重导入：检查模型文件的每个字节，再把矩阵排成内核一路读下去的样子，并（int8 时）逐行量化。 */
#include "model.h"

#include <math.h>
#include <string.h>

enum { V1_HEADER = 64, V2_HEADER = 128, NARROW = 4 };
enum { BIAS = 1, BATCH_FIRST = 2, BIDIRECTIONAL = 4, REVERSE = 8, HEAD_BIAS = 16, SIGMOID = 32 };
enum { FLOAT32 = 1, FLOAT64 = 2, INT8 = 3, FLOAT16 = 4 };
#define HALF_LIMIT 65520.0f /* 从这里起，就近取偶得到的半精度是无穷 */

const char *lstm_message(int32_t code) {
    static const char *const messages[LSTM_CODES] = {
        [LSTM_OK] = "没有错误",
        [LSTM_SHORT] = "文件在这里断了：请重新下载或重新导出",
        [LSTM_MAGIC] = "这不是本书的权重文件，或传输时换行符被改过：请用二进制方式传文件",
        [LSTM_VERSION] = "版本号不认识：请升级本程序，或检查文件",
        [LSTM_HEADER_SIZE] = "文件头的长度与版本不符",
        [LSTM_HEADER_CRC] = "文件头的 CRC-32 不对：文件头已损坏",
        [LSTM_FLAGS] = "标志位里有没有定义的组合",
        [LSTM_SIZE] = "尺寸是 0，或大得放不进内存",
        [LSTM_DTYPE] = "数的类型不认识",
        [LSTM_RESERVED] = "保留或补齐的字节不是 0",
        [LSTM_DATA_SIZE] = "数据区的长度与各尺寸不符",
        [LSTM_TRAILING] = "从这里起多出字节",
        [LSTM_DATA_CRC] = "数据区的 CRC-32 不对：某处已损坏，请重新下载或重新导出",
        [LSTM_NOT_FINITE] = "权重里有 NaN 或无穷大：请检查训练出来的权重",
        [LSTM_INT8_RANGE] = "int8 权重是 -128，只许 -127 到 127",
        [LSTM_STEP] = "量化步长应是非负的有限数",
        [LSTM_STFT] = "STFT 的约定不认识，或与网络的尺寸不符",
        [LSTM_NOT_MASK] =
            "这是一个 LSTM 的权重，不是语音增强网络：请用 export --to bin 导出整个网络",
        [LSTM_LEVEL] = "这台机器跑不了这个指令集级别",
        [LSTM_MEMORY] = "内存不够",
        [LSTM_OPTION] = "选项的值不合理",
        [LSTM_SAMPLE] = "输入的样点里有 NaN、无穷大或大得离谱的数",
        [LSTM_HALF_RANGE] = "权重太大，float16 最大到 65504：请用 float32 或 int8",
    };
    return code >= 0 && code < LSTM_CODES ? messages[code] : "未知的错误";
}

// [读数]
/* 一个字节一个字节地拼：不要求对齐，与本机的大小端也无关 */
static uint32_t u32(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t u64(const uint8_t *p) { return u32(p) | (uint64_t)u32(p + 4) << 32; }

static float f32(const uint8_t *p) {
    const uint32_t bits = u32(p);
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* 半精度，一位不差：指数是 0 的没有隐含的 1，做法见 isa.h 的 widen_4 */
static float f16(const uint8_t *p) {
    const uint32_t half = p[0] | (uint32_t)p[1] << 8, bits = ((half & 0x7fff) << 13) + (112u << 23);
    float value;
    memcpy(&value, &bits, 4);
    value = fminf(value, value + value - 0x1p-14f);
    return half & 0x8000 ? -value : value;
}

static float f64(const uint8_t *p) {
    const uint64_t bits = u64(p);
    double value;
    memcpy(&value, &bits, 8);
    return (float)value;
}
// [/读数]

/* CRC-32（zlib、PNG 所用的那一种），半个字节一查，表只有 16 项 */
static uint32_t crc32(const uint8_t *p, uint64_t size) {
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    uint32_t crc = ~0u;
    for (uint64_t k = 0; k < size; k++) {
        crc ^= p[k];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

/* 文件头说的一切 */
typedef struct {
    const uint8_t *file;
    int64_t header, data; /* 文件头与数据区的字节数 */
    uint32_t version, flags, input, hidden, layers, projection, dtype;
    uint32_t head, n_fft, hop, rate, first_bin;
    int directions, quantized; /* quantized：打包成哪一种 */
} facts;

static int fail(lstm_error *error, int32_t code, int64_t offset) {
    error->code = code, error->offset = offset;
    return 0;
}

static int64_t itemsize(const facts *f) { return f->dtype == FLOAT64 ? 8 : 4; }

static uint32_t outputs(const facts *f) { return f->projection ? f->projection : f->hidden; }

static uint32_t layer_input(const facts *f, uint32_t layer) {
    return layer ? outputs(f) * (uint32_t)f->directions : f->input;
}

/* rows × columns 的矩阵在文件里占多少字节：半精度与 int8 的补到 4 的倍数，int8 的后面跟着每行的步长 */
static double matrix_bytes(const facts *f, double rows, double columns) {
    if (f->dtype == FLOAT16) return 4 * ceil(rows * columns / 2);
    if (f->dtype != INT8) return rows * columns * (double)itemsize(f);
    return 4 * ceil(rows * columns / 4) + 4 * rows;
}

/* 数据区应有多少字节。用 double 算：尺寸再荒唐也不溢出，而 2⁵³ 以下是精确的。 */
static double expected_bytes(const facts *f) {
    double total = 0;
    const double rows = 4.0 * f->hidden, item = (double)itemsize(f);
    for (uint32_t layer = 0; layer < 2; layer++) { /* 第 1 层起都一样大 */
        const double in = layer ? (double)outputs(f) * f->directions : f->input;
        double one = matrix_bytes(f, rows, in) + matrix_bytes(f, rows, outputs(f));
        if (f->flags & BIAS) one += rows * item;
        if (f->projection) one += (double)f->projection * f->hidden * item;
        total += one * f->directions * (layer ? f->layers - 1.0 : 1.0);
    }
    if (f->head) {
        total += matrix_bytes(f, f->head, (double)outputs(f) * f->directions);
        if (f->flags & HEAD_BIAS) total += f->head * item;
    }
    return total;
}

/* STFT 的约定是否认识、与网络的尺寸是否相符；出错时返回字节位置，没错返回 0 */
static int64_t wrong_stft(const facts *f, const uint8_t *p) {
    const uint32_t bins = f->head ? f->head : outputs(f);
    if (!f->n_fft) { /* 不是增强网络：其余各项也都要是 0 */
        for (int64_t at = 60; at < 84; at += 4)
            if (u32(p + at)) return at;
        return 0;
    }
    if (f->n_fft % 2 || f->n_fft / 2 + 1 != bins) return 56;
    if (!f->hop || f->n_fft % f->hop || f->hop > f->n_fft / 2) return 60;
    if (!f->rate || f->rate > 1u << 24) return 64;
    if (u32(p + 68) != 1) return 68; /* 窗：周期型 Hann 的平方根 */
    if (u32(p + 72) != 1) return 72; /* 输入：幅度谱 */
    if (f->first_bin > 1 || f->input + f->first_bin != bins) return 76;
    if (u32(p + 80) != 1) return 80; /* 输出：乘在带噪谱上的实数掩蔽 */
    return 0;
}

// [文件头]
static int read_header(const uint8_t *p, int64_t bytes, int quantize, facts *f, lstm_error *error) {
    static const uint8_t magic[8] = {0x89, 'L', 'S', 'T', 'M', '\r', '\n', 0x1a};
    for (int k = 0; k < 8; k++) {
        if (k >= bytes) return fail(error, LSTM_SHORT, bytes);
        if (p[k] != magic[k]) return fail(error, LSTM_MAGIC, k);
    }
    if (bytes < 12) return fail(error, LSTM_SHORT, bytes);
    memset(f, 0, sizeof *f);
    f->file = p, f->version = u32(p + 8);
    if (f->version != 1 && f->version != 2) return fail(error, LSTM_VERSION, 8);
    f->header = f->version == 1 ? V1_HEADER : V2_HEADER;
    if (bytes < f->header) return fail(error, LSTM_SHORT, bytes);
    const int64_t crc_at = f->header - 4;
    if (crc32(p, (uint64_t)crc_at) != u32(p + crc_at)) return fail(error, LSTM_HEADER_CRC, crc_at);
    if (u32(p + 12) != (uint32_t)f->header) return fail(error, LSTM_HEADER_SIZE, 12);
    f->flags = u32(p + 16), f->input = u32(p + 20), f->hidden = u32(p + 24);
    f->layers = u32(p + 28), f->projection = u32(p + 32), f->dtype = u32(p + 36);
    const int bidirectional = (f->flags & BIDIRECTIONAL) != 0;
    f->directions = 1 + bidirectional;
    if (f->flags > (f->version == 1 ? 15 : 63) || (bidirectional && f->flags & REVERSE))
        return fail(error, LSTM_FLAGS, 16);
    for (int64_t at = 20; at < 32; at += 4)
        if (!u32(p + at)) return fail(error, LSTM_SIZE, at);
    if (f->dtype < FLOAT32 || f->dtype > (f->version == 1 ? FLOAT64 : FLOAT16))
        return fail(error, LSTM_DTYPE, 36);
    if (f->version == 2) {
        f->head = u32(p + 52), f->n_fft = u32(p + 56), f->hop = u32(p + 60);
        f->rate = u32(p + 64), f->first_bin = u32(p + 76);
        if (!f->head && f->flags & HEAD_BIAS) return fail(error, LSTM_FLAGS, 16);
    }
    for (int64_t at = f->version == 1 ? 52 : 84; at < crc_at; at++)
        if (p[at]) return fail(error, LSTM_RESERVED, at);
    const double expected = expected_bytes(f);
    if (expected > 9e15 || (double)u64(p + 40) != expected) return fail(error, LSTM_DATA_SIZE, 40);
    f->data = (int64_t)expected;
    if (bytes - f->header < f->data) return fail(error, LSTM_SHORT, bytes);
    if (bytes - f->header > f->data) return fail(error, LSTM_TRAILING, f->header + f->data);
    if (quantize < LSTM_FLOAT32 || quantize > LSTM_FLOAT16) return fail(error, LSTM_OPTION, -1);
    f->quantized = f->dtype == INT8 ? LSTM_INT8 : quantize;
    /* 半精度的不必展宽了再存：算的时候展宽，结果逐位相同 */
    if (f->dtype == FLOAT16 && quantize == LSTM_FLOAT32) f->quantized = LSTM_FLOAT16;
    const double widest = fmax(f->input, (double)outputs(f) * f->directions);
    /* 再宽，int8 的整数和就可能超出 int32 */
    if (f->quantized == LSTM_INT8 && widest > 65536) return fail(error, LSTM_SIZE, 20);
    const int64_t wrong = f->version == 2 ? wrong_stft(f, p) : 0;
    return wrong ? fail(error, LSTM_STFT, wrong) : 1;
}
// [/文件头]

/* ---- 数据区：逐个数地查，再排进内存 ---- */

typedef struct { /* 一个矩阵在文件里的位置 */
    const uint8_t *values, *steps;
    int64_t rows, columns;
    uint32_t dtype;
} matrix;

static float element(const matrix *m, int64_t row, int64_t column) {
    const int64_t at = row * m->columns + column;
    return m->dtype == FLOAT64   ? f64(m->values + 8 * at)
           : m->dtype == FLOAT16 ? f16(m->values + 2 * at)
                                 : f32(m->values + 4 * at);
}

/* 从 *at 起取一个矩阵，*at 移到它后面 */
static matrix take(const facts *f, int64_t *at, int64_t rows, int64_t columns, int weight) {
    matrix m = {f->file + *at, NULL, rows, columns, f->dtype};
    if (!weight && f->dtype != FLOAT64) m.dtype = FLOAT32; /* 偏置与投影不量化 */
    if (m.dtype == FLOAT16) {
        *at += (rows * columns + 1) / 2 * 4;
    } else if (m.dtype == INT8) {
        const int64_t body = (rows * columns + 3) / 4 * 4;
        m.steps = m.values + body;
        *at += body + 4 * rows;
    } else {
        *at += rows * columns * (m.dtype == FLOAT64 ? 8 : 4);
    }
    return m;
}

// [查每个数]
/* weight：是会打包成半精度的那些，不是偏置与投影 */
static int check_matrix(const facts *f, const matrix *m, int weight, lstm_error *error) {
    const int64_t count = m->rows * m->columns, size = m->dtype == FLOAT64 ? 8 : 4;
    if (m->dtype == FLOAT16) {
        for (int64_t k = 0; k < count; k++) /* 指数全是 1 的是 NaN 与无穷 */
            if ((m->values[2 * k + 1] & 0x7c) == 0x7c)
                return fail(error, LSTM_NOT_FINITE, m->values + 2 * k - f->file);
        for (int64_t k = 2 * count; k < (count + 1) / 2 * 4; k++)
            if (m->values[k]) return fail(error, LSTM_RESERVED, m->values + k - f->file);
        return 1;
    }
    if (m->dtype != INT8) {
        /* 版本 1 的浮点权重只是搬运：有 NaN，输出就是 NaN，看得见 */
        if (f->version == 1 && !f->quantized) return 1;
        const int half = weight && f->quantized == LSTM_FLOAT16;
        for (int64_t k = 0; k < count; k++) {
            const float value = size == 8 ? f64(m->values + 8 * k) : f32(m->values + 4 * k);
            if (!isfinite(value))
                return fail(error, LSTM_NOT_FINITE, m->values + size * k - f->file);
            if (half && fabsf(value) >= HALF_LIMIT)
                return fail(error, LSTM_HALF_RANGE, m->values + size * k - f->file);
        }
        return 1;
    }
    for (const uint8_t *p = m->values; p < m->steps; p++) {
        if (p - m->values >= count) {
            if (*p) return fail(error, LSTM_RESERVED, p - f->file);
        } else if (*p == 0x80) {
            return fail(error, LSTM_INT8_RANGE, p - f->file);
        }
    }
    for (int64_t row = 0; row < m->rows; row++) {
        const float step = f32(m->steps + 4 * row);
        if (!isfinite(step) || step < 0)
            return fail(error, LSTM_STEP, m->steps + 4 * row - f->file);
    }
    return 1;
}
// [/查每个数]

/* hidden 个单元要几个宽块、几个窄块；余数过半块时，宁可多补零、少循环 */
void lstm_split_units(int64_t hidden_size, int width, int32_t *wide, int32_t *narrow) {
    const int64_t rest = hidden_size % width;
    *wide = (int32_t)(hidden_size / width), *narrow = 0;
    if (rest > width / 2)
        ++*wide;
    else
        *narrow = (int32_t)((rest + NARROW - 1) / NARROW);
}

static int64_t padded(int64_t columns, int kind) {
    return kind == LSTM_INT8 ? (columns + 3) / 4 * 4 : columns;
}

// [打包]
/* 就近取偶，舍入成半精度。绝对值小于 2⁻¹⁴ 的没有隐含的 1，一格是 2⁻²⁴，加上 0.5 正好让加法舍到这一格。 */
static uint16_t to_half(float value) {
    uint32_t bits, sign;
    memcpy(&bits, &value, 4);
    sign = bits >> 16 & 0x8000, bits &= 0x7fffffff;
    if (bits < 0x38800000) {
        float shifted = fabsf(value) + 0.5f;
        memcpy(&bits, &shifted, 4);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1); /* 舍去 13 位：过半进一，正好一半取偶 */
    return (uint16_t)(sign | ((bits >> 13) - (112 << 10)));
}

/* 一个矩阵的第 part 部分排进 cell：块 → 列（int8 时 4 列一组）→ 门 I F O G → 单元。
 * gates[k] 是内核的第 k 个门在文件里排第几；units 是每个门的行数；before、all 是本部分之前的列数与总列数。 */
static void pack(lstm_cell *cell, const matrix *m, const int gates[4], int64_t units, int width,
                 int kind, int part, int parts, int64_t before, int64_t all) {
    const int quantized = kind == LSTM_INT8, group = quantized ? 4 : 1;
    for (int block = 0; block < cell->wide + cell->narrow; block++) {
        const int w = block < cell->wide ? width : NARROW;
        const int64_t unit = block < cell->wide ? (int64_t)block * width
                                                : (int64_t)cell->wide * width +
                                                      (int64_t)(block - cell->wide) * NARROW;
        for (int gate = 0; gate < 4; gate++)
            for (int lane = 0; lane < w; lane++) {
                const int64_t row = gates[gate] * units + unit + lane;
                const int64_t at = 4 * (unit * all + w * before) + (gate * w + lane) * group;
                const int64_t slot = 4 * (parts * unit + part * w) + gate * w + lane;
                const int real = unit + lane < units && row < m->rows;
                float step = 0, divisor = 1;
                if (real && quantized && m->dtype != INT8) {
                    float top = 0;
                    for (int64_t k = 0; k < m->columns; k++)
                        top = fmaxf(top, fabsf(element(m, row, k)));
                    step = top / 127.0f, divisor = step > 0 ? step : 1.0f;
                } else if (real && quantized) {
                    step = f32(m->steps + 4 * row);
                }
                int32_t sum = 0;
                for (int64_t k = 0; real && k < m->columns; k++) {
                    const int64_t here = at + k / group * group * 4 * w + k % group;
                    if (kind == LSTM_FLOAT32) ((float *)cell->weight)[here] = element(m, row, k);
                    if (kind == LSTM_FLOAT16)
                        ((uint16_t *)cell->weight)[here] = to_half(element(m, row, k));
                    if (!quantized) continue;
                    float value = 0;
                    if (m->dtype != INT8)
                        value = fminf(fmaxf(rintf(element(m, row, k) / divisor), -127), 127);
                    const int8_t q =
                        m->dtype == INT8 ? (int8_t)m->values[row * m->columns + k] : (int8_t)value;
                    ((int8_t *)cell->weight)[here] = q, sum += q;
                }
                if (quantized) {
                    ((float *)cell->scale)[slot] = step;
                    ((int32_t *)cell->offset)[slot] = -128 * sum;
                }
            }
    }
}
// [/打包]

/* 一行数（偏置）按同样的次序排开 */
static void pack_bias(lstm_cell *cell, const matrix *m, const int gates[4], int64_t units,
                      int width) {
    for (int block = 0; block < cell->wide + cell->narrow; block++) {
        const int w = block < cell->wide ? width : NARROW;
        const int64_t unit = block < cell->wide ? (int64_t)block * width
                                                : (int64_t)cell->wide * width +
                                                      (int64_t)(block - cell->wide) * NARROW;
        for (int k = 0; k < 4 * w; k++) {
            const int64_t lane = unit + k % w, row = gates[k / w] * units + lane;
            if (lane < units && row < m->columns)
                ((float *)cell->bias)[4 * unit + k] = element(m, 0, row);
        }
    }
}

/* 给 cell 的各数组留地方；columns 是各部分补齐后的总列数 */
static void reserve_cell(arena *a, lstm_cell *cell, int width, int kind, int parts,
                         int64_t columns) {
    static const int item[] = {[LSTM_FLOAT32] = 4, [LSTM_INT8] = 1, [LSTM_FLOAT16] = 2};
    const int64_t rows = 4 * ((int64_t)cell->wide * width + (int64_t)cell->narrow * NARROW);
    cell->weight = reserve(a, rows * columns, item[kind]);
    cell->bias = reserve(a, rows, 4);
    if (kind == LSTM_INT8) {
        cell->scale = reserve(a, rows * parts, 4);
        cell->offset = reserve(a, rows * parts, 4);
    }
}

/* 第 k 个（层 × 方向）LSTM 的尺寸；各数组还空着 */
static lstm_cell cell_sizes(const facts *f, int k, int width) {
    lstm_cell cell = {0};
    cell.input_size = (int32_t)layer_input(f, (uint32_t)(k / f->directions));
    cell.hidden_size = (int32_t)f->hidden, cell.output_size = (int32_t)outputs(f);
    cell.backward = f->directions == 2 ? k % 2 : (f->flags & REVERSE) != 0;
    lstm_split_units(cell.hidden_size, width, &cell.wide, &cell.narrow);
    return cell;
}

/* 线性层也按 4 段排：第 k 段是输出的第 k 个四分之一，内核的点积原样可用 */
static lstm_cell head_sizes(const facts *f, int width) {
    lstm_cell cell = {0};
    cell.input_size = (int32_t)outputs(f) * f->directions;
    cell.output_size = (int32_t)f->head;
    cell.hidden_size = (int32_t)(((int64_t)f->head + 3) / 4);
    lstm_split_units(cell.hidden_size, width, &cell.wide, &cell.narrow);
    return cell;
}

static lstm_model model_facts(const facts *f, int level) {
    const int tiles = f->quantized == LSTM_INT8 && lstm_tiles_supported(level);
    return (lstm_model){
        .net = {level, f->quantized, (int32_t)f->layers, f->directions, tiles, NULL},
        .sigmoid = f->version == 2 && (f->flags & SIGMOID) != 0,
        .version = (int32_t)f->version,
        .layers = (int32_t)f->layers,
        .input_size = (int32_t)f->input,
        .output_size = (int32_t)(f->head ? f->head : outputs(f) * (uint32_t)f->directions),
        .n_fft = (int32_t)f->n_fft,
        .hop_length = (int32_t)f->hop,
        .sample_rate = (int32_t)f->rate,
        .first_bin = (int32_t)f->first_bin,
    };
}

/* 按文件里的次序走一遍全部数组。base 为 NULL：只算大小；check：只查，不排。 */
static int walk(const facts *f, int level, char *base, int check, int64_t *size,
                const lstm_model **result, lstm_error *error) {
    static const int torch_gates[4] = {0, 1, 3, 2}; /* 内核的 I F O G 在文件的 i f g o 里排第几 */
    static const int quarters[4] = {0, 1, 2, 3};
    arena a = {base, 0};
    const int width = lstm_level_width(level);
    const int64_t hidden = f->hidden, size_out = outputs(f);
    const int q = f->quantized, count = (int)f->layers * f->directions;
    lstm_model *model = reserve(&a, 1, sizeof *model);
    lstm_cell *cells = reserve(&a, (int64_t)count + 1, sizeof *cells);
    int64_t at = f->header;
    for (int k = 0; k < count; k++) {
        lstm_cell cell = cell_sizes(f, k, width);
        const int64_t in = cell.input_size;
        const matrix ih = take(f, &at, 4 * hidden, in, 1),
                     hh = take(f, &at, 4 * hidden, size_out, 1);
        matrix bias = {0}, hr = {0};
        if (f->flags & BIAS) bias = take(f, &at, 1, 4 * hidden, 0);
        if (f->projection) hr = take(f, &at, size_out, hidden, 0);
        if (check) {
            if (!check_matrix(f, &ih, 1, error) || !check_matrix(f, &hh, 1, error)) return 0;
            if (bias.values && !check_matrix(f, &bias, 0, error)) return 0;
            if (hr.values && !check_matrix(f, &hr, 0, error)) return 0;
            continue;
        }
        const int64_t x = padded(in, q), h = padded(size_out, q);
        reserve_cell(&a, &cell, width, q, 2, x + h);
        if (hr.values) cell.projection = reserve(&a, size_out * hidden, 4);
        if (!base) continue;
        pack(&cell, &ih, torch_gates, hidden, width, q, 0, 2, 0, x + h);
        pack(&cell, &hh, torch_gates, hidden, width, q, 1, 2, x, x + h);
        if (bias.values) pack_bias(&cell, &bias, torch_gates, hidden, width);
        for (int64_t row = 0; hr.values && row < size_out; row++)
            for (int64_t k2 = 0; k2 < hidden; k2++)
                ((float *)cell.projection)[k2 * size_out + row] = element(&hr, row, k2);
        cells[k] = cell;
    }
    if (f->head) {
        lstm_cell cell = head_sizes(f, width);
        const int64_t in = cell.input_size, units = cell.hidden_size;
        const matrix weight = take(f, &at, f->head, in, 1);
        matrix bias = {0};
        if (f->flags & HEAD_BIAS) bias = take(f, &at, 1, f->head, 0);
        if (check && (!check_matrix(f, &weight, 1, error) ||
                      (bias.values && !check_matrix(f, &bias, 0, error))))
            return 0;
        reserve_cell(&a, &cell, width, q, 1, padded(in, q));
        if (base && !check) {
            pack(&cell, &weight, quarters, units, width, q, 0, 1, 0, padded(in, q));
            if (bias.values) pack_bias(&cell, &bias, quarters, units, width);
            cells[count] = cell;
        }
    }
    *size = a.used;
    if (!base || check) return 1;
    *model = model_facts(f, level);
    model->net.cells = cells, model->head = f->head ? cells + count : NULL;
    *result = model;
    return 1;
}

/* 级别、文件头、长度：数据区之外的一切 */
static int begin(const void *file, int64_t bytes, int level, int quantize, facts *f,
                 lstm_error *error) {
    *error = (lstm_error){LSTM_OK, -1};
    if (!lstm_level_supported(level)) return fail(error, LSTM_LEVEL, -1);
    return read_header(file, bytes, quantize, f, error);
}

int64_t lstm_model_bytes(const void *file, int64_t bytes, int level, int quantize,
                         lstm_error *error) {
    facts f;
    int64_t size = 0;
    if (!begin(file, bytes, level, quantize, &f, error)) return -1;
    walk(&f, level, NULL, 0, &size, NULL, error);
    return size;
}

int lstm_model_outline(const void *file, int64_t bytes, int level, int quantize, lstm_model *model,
                       lstm_cell cells[5], lstm_error *error) {
    facts f;
    if (!begin(file, bytes, level, quantize, &f, error)) return 0;
    const int width = lstm_level_width(level), layers = f.layers > 1 ? 2 : 1;
    for (int k = 0; k < layers * f.directions; k++) cells[k] = cell_sizes(&f, k, width);
    cells[4] = head_sizes(&f, width);
    *model = model_facts(&f, level);
    model->net.cells = cells, model->net.layers = layers, model->head = f.head ? cells + 4 : NULL;
    return 1;
}

const lstm_model *lstm_model_open(const void *file, int64_t bytes, int level, int quantize,
                                  void *memory, lstm_error *error) {
    facts f;
    int64_t size = 0;
    const lstm_model *model = NULL;
    if (!begin(file, bytes, level, quantize, &f, error)) return NULL;
    if (crc32(f.file + f.header, (uint64_t)f.data) != u32(f.file + 48)) {
        fail(error, LSTM_DATA_CRC, 48);
        return NULL;
    }
    if (!walk(&f, level, NULL, 1, &size, NULL, error)) return NULL;
    walk(&f, level, NULL, 0, &size, NULL, error);
    memset(memory, 0, (size_t)size); /* 补齐的单元与列都是零 */
    walk(&f, level, memory, 0, &size, &model, error);
    return model;
}
