/* 不经过 Python 跑内核：从文件读出一组组权重文件、输入与应有的输出，打包，计算，比较，打印最大差。
 * 打包好的数组各自搬进不多一个字节的 malloc，越界一读就被 AddressSanitizer 抓住；交叉编译后也在 qemu 里跑。 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static FILE *in;

static void get(void *to, size_t bytes) {
    if (bytes && fread(to, 1, bytes, in) != bytes) {
        fprintf(stderr, "案例文件不完整\n");
        exit(2);
    }
}

static void *array(int64_t *count) {
    int64_t bytes;
    get(&bytes, 8);
    void *data = bytes ? malloc((size_t)bytes) : NULL;
    get(data, (size_t)bytes);
    if (count) *count = bytes / 4;
    return data;
}

static float compare(const float *got, const float *want, int64_t count) {
    float worst = 0;
    for (int64_t k = 0; k < count; k++) {
        float d = fabsf(got[k] - want[k]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

static const void *own(const void *from, int64_t bytes) {
    if (!from) return NULL;
    void *data = malloc((size_t)bytes);
    return memcpy(data, from, (size_t)bytes);
}

/* 打包好的各数组换成单独的、大小正好的一份 */
static lstm_cell separate(const lstm_cell *packed, int width, int kind) {
    lstm_cell cell = *packed;
    const int64_t rows = 4 * ((int64_t)cell.wide * width + (int64_t)cell.narrow * 4);
    static const int item[] = {[LSTM_FLOAT32] = 4, [LSTM_INT8] = 1, [LSTM_FLOAT16] = 2};
    const int64_t pad = kind == LSTM_INT8 ? 3 : 0;
    const int64_t columns = ((cell.input_size + pad) & ~pad) + ((cell.output_size + pad) & ~pad);
    cell.weight = own(packed->weight, rows * columns * item[kind]);
    cell.bias = own(packed->bias, rows * 4);
    cell.scale = own(packed->scale, rows * 8), cell.offset = own(packed->offset, rows * 8);
    cell.projection = own(packed->projection, (int64_t)cell.hidden_size * cell.output_size * 4);
    return cell;
}

int main(int argc, char **argv) {
    if (argc != 2 || !(in = fopen(argv[1], "rb"))) return 2;
    int32_t cases, head[4]; /* 级别，权重怎样存，批，帧 */
    get(&cases, 4);
    for (int32_t k = 0; k < cases; k++) {
        get(head, sizeof head);
        const int32_t level = head[0], batch = head[2], frames = head[3];
        int64_t words;
        void *file = array(&words);
        lstm_error error;
        const int64_t size = lstm_model_bytes(file, words * 4, level, head[1], &error);
        void *memory = size < 0 ? NULL : aligned_alloc(64, (size_t)size);
        const lstm_model *model =
            memory ? lstm_model_open(file, words * 4, level, head[1], memory, &error) : NULL;
        if (!model) {
            fprintf(stderr, "第 %lld 字节：%s\n", (long long)error.offset,
                    lstm_message(error.code));
            return 2;
        }
        free(file);
        lstm_net net = model->net;
        const int32_t count = net.layers * net.directions;
        lstm_cell *cells = malloc(sizeof *cells * (size_t)count);
        for (int32_t i = 0; i < count; i++)
            cells[i] = separate(net.cells + i, lstm_level_width(level), net.quantized);
        net.cells = cells;
        free(memory);
        int64_t ny, nh, nc;
        float *x = array(NULL), *h = array(NULL), *c = array(NULL);
        float *y_want = array(&ny), *h_want = array(&nh), *c_want = array(&nc);
        float *y = malloc((size_t)ny * 4);
        void *scratch = malloc((size_t)lstm_scratch_bytes(&net, frames, batch));
        lstm_stream stream = {&net, h, c, scratch, batch, 0};
        lstm_run(&stream, x, y, frames);
        printf("%d %.9g %.9g %.9g\n", net.quantized, compare(y, y_want, ny), compare(h, h_want, nh),
               compare(c, c_want, nc));
        for (int32_t i = 0; i < count; i++) {
            free((void *)cells[i].weight), free((void *)cells[i].bias);
            free((void *)cells[i].scale), free((void *)cells[i].offset);
            free((void *)cells[i].projection);
        }
        free(cells), free(x), free(h), free(c), free(y), free(scratch);
        free(y_want), free(h_want), free(c_want);
    }
    return 0;
}
