/* 损坏的模型文件：拿完好的文件变出许多变体，逐个打开。每一个要么报错，要么真的能用；不崩溃、不卡住、不多要内存。
 *     fuzz_model 种子 次数 秒数 失败时存成的文件 模型…
 * 次数或秒数先到为止。同一个种子，变体一个字节也不差。用 -fsanitize=address,undefined 编译，越界当场就停。 */
#include "enhancer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 60, MB = 1 << 20 }; /* 一个变体最多几秒 */

static uint64_t state;
static uint32_t draw(uint32_t below) { /* xorshift64* */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (uint32_t)((state * 2685821657736338717u) >> 32) % below;
}

static uint32_t get(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static void put(uint8_t *p, uint32_t v) {
    for (int k = 0; k < 4; k++) p[k] = v >> 8 * k & 255;
}

static uint32_t crc(const uint8_t *p, size_t size) {
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t k = 0; k < 256; k++) {
            uint32_t value = k;
            for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
            table[k] = value;
        }
    uint32_t value = ~0u;
    for (size_t k = 0; k < size; k++) value = value >> 8 ^ table[(value ^ p[k]) & 255];
    return ~value;
}

static const char *saved;
static const uint8_t *current;
static size_t current_size;

_Noreturn static void report(const char *what, long long a, long long b) {
    FILE *file = fopen(saved, "wb");
    if (file) fwrite(current, 1, current_size, file), fclose(file);
    fprintf(stderr, "%s（%lld，%lld）：变体存成了 %s\n", what, a, b, saved);
    exit(1);
}

/* 头里的一个数换成容易出错的值 */
static void strange_field(uint8_t *p, size_t header) {
    static const uint32_t values[] = {
        0, 1, 2, 3, 4, 255, 65535, 65536, 65537, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
    enum { COUNT = sizeof values / sizeof *values };
    uint8_t *field = p + 8 + 4 * draw((uint32_t)(header - 12) / 4);
    const uint32_t kind = draw(COUNT + 4), old = get(field);
    const uint32_t others[] = {old + 1, old - 1, old ^ 1u << draw(32), draw(0xffffffff)};
    put(field, kind < COUNT ? values[kind] : others[kind - COUNT]);
}

/* 变一次；返回新的长度（不超过 size + 64） */
static size_t mutate(uint8_t *p, size_t size, size_t header) {
    uint8_t swap[4];
    uint8_t *a = p + 8 + 4 * draw((uint32_t)(header - 12) / 4);
    uint8_t *b = p + 8 + 4 * draw((uint32_t)(header - 12) / 4);
    switch (draw(7)) {
    case 0:
        for (uint32_t k = 1 + draw(8); k; k--) p[draw((uint32_t)size)] ^= (uint8_t)(1u << draw(8));
        return size;
    case 1:
        return draw((uint32_t)size);
    case 2:
        for (uint32_t k = 0; k < 64; k++) p[size + k] = (uint8_t)draw(256);
        return size + 1 + draw(64);
    case 3:
        memcpy(swap, a, 4), memcpy(a, b, 4), memcpy(b, swap, 4);
        return size;
    case 4:
        for (size_t at = draw((uint32_t)size), k = 0; k < 16 && at + k < size; k++)
            p[at + k] = (uint8_t)draw(256);
        return size;
    default:
        strange_field(p, header);
        return size;
    }
}

/* 变过之后把 CRC 与（有时）数据区的长度补对：损坏就要靠别的检查看出来 */
static void repair(uint8_t *p, size_t size, size_t header) {
    if (size < header) return;
    if (draw(4) == 0) put(p + 40, (uint32_t)(size - header)), put(p + 44, 0);
    put(p + 48, crc(p + header, size - header));
    put(p + header - 4, crc(p, header - 4));
}

static void *aligned(int64_t size) { /* 恰好这么大 */
    void *memory = NULL;
    if (posix_memalign(&memory, 64, (size_t)size)) report("要不到内存", size, 0);
    return memory;
}

static void check_error(int64_t size, const lstm_error *error, size_t bytes) {
    if (error->code <= LSTM_OK || error->code >= LSTM_CODES)
        report("没有错误码", error->code, size);
    if (error->offset < -1 || error->offset > (int64_t)bytes)
        report("字节位置在文件外面", error->offset, error->code);
}

static void check_size(int64_t size, size_t bytes) {
    if (size > 64 * (int64_t)bytes + MB) report("要的内存比文件大太多", size, (long long)bytes);
}

/* 打开一个变体；返回错误码，0 是打开了、也跑了几帧 */
static int32_t try_open(const uint8_t *data, size_t bytes, int level, int quantize) {
    lstm_error error;
    void *memory;
    int64_t size = lstm_model_bytes(data, (int64_t)bytes, level, quantize, &error);
    if (size < 0) {
        check_error(size, &error, bytes);
    } else {
        check_size(size, bytes);
        memory = aligned(size);
        if (!lstm_model_open(data, (int64_t)bytes, level, quantize, memory, &error))
            check_error(size, &error, bytes);
        free(memory);
    }
    const int32_t first = error.code;
    const enhancer_options options = {level, quantize, 0};
    size = enhancer_bytes(data, (int64_t)bytes, &options, &error);
    if (size < 0) return check_error(size, &error, bytes), error.code;
    check_size(size, bytes);
    memory = aligned(size);
    enhancer *e = enhancer_open_at(data, (int64_t)bytes, &options, memory, &error);
    if (e) {
        if (first) report("模型打不开，增强器却打开了", first, 0);
        const int64_t count = 20 * (int64_t)enhancer_info(e).hop;
        float *wave = malloc((size_t)count * sizeof *wave);
        if (!wave) report("要不到内存", count, 0);
        for (int64_t k = 0; k < count; k++) wave[k] = (float)draw(2000) / 1000 - 1;
        if (enhancer_process(e, wave, wave, 20, &error)) report("好好的输入被拒绝", error.code, 0);
        free(wave);
        enhancer_reset(e);
        enhancer_close(e);
    } else {
        check_error(size, &error, bytes);
    }
    free(memory);
    return error.code;
}

static uint8_t *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(64 * MB);
    if (!file || !data) exit((perror(path), 2));
    *size = fread(data, 1, 64 * MB, file);
    fclose(file);
    return data;
}

int main(int count, char **arguments) {
    if (count < 6) return fprintf(stderr, "用法：fuzz_model 种子 次数 秒数 失败文件 模型…\n"), 2;
    state = strtoull(arguments[1], NULL, 10) * 2 + 1;
    const long long times = atoll(arguments[2]);
    const double seconds = atof(arguments[3]);
    saved = arguments[4];
    const uint32_t files = (uint32_t)count - 5;
    uint8_t **data = malloc(files * sizeof *data);
    size_t *sizes = malloc(files * sizeof *sizes);
    if (!data || !sizes) return 2;
    for (uint32_t k = 0; k < files; k++) data[k] = read_file(arguments[5 + k], sizes + k);
    int levels[LSTM_LEVELS], usable = 0;
    for (int k = 0; k < LSTM_LEVELS; k++)
        if (lstm_level_supported(k)) levels[usable++] = k;
    const time_t begun = time(NULL);
    long long done = 0, codes[LSTM_CODES] = {0};
    for (; done < times && difftime(time(NULL), begun) < seconds; done++) {
        const uint32_t which = draw(files);
        const size_t size = sizes[which], header = data[which][8] == 1 ? 64 : 128;
        uint8_t *scratch = malloc(size + 64);
        if (!scratch) return 2;
        memcpy(scratch, data[which], size);
        size_t now = mutate(scratch, size, header);
        for (uint32_t more = draw(3); more && now == size; more--)
            now = mutate(scratch, size, header);
        const int same = now == size && !memcmp(scratch, data[which], size);
        const int repaired = draw(2) == 1;
        if (repaired) repair(scratch, now, header);
        uint8_t *exact = malloc(now ? now : 1); /* 恰好这么大：多读一个字节也看得见 */
        if (!exact) return 2;
        memcpy(exact, scratch, now);
        free(scratch);
        current = exact, current_size = now;
        alarm(PATIENCE);
        const int32_t code = try_open(exact, now, levels[draw((uint32_t)usable)], (int)draw(3));
        if (!same && !repaired && !code) report("变了样的文件打开了", (long long)which, done);
        codes[code]++;
        free(exact);
    }
    alarm(0);
    printf("%lld 个变体，%lld 个（CRC 补对了的）打得开，其余都报错：\n", done, codes[0]);
    for (int k = 1; k < LSTM_CODES; k++)
        if (codes[k]) printf("%10lld  %s\n", codes[k], lstm_message(k));
    for (uint32_t k = 0; k < files; k++) free(data[k]);
    free(data), free(sizes);
    return 0;
}
