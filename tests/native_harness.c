/* 不经过 Python 跑内核：从文件读出一组组打包好的权重、输入与应有的输出，比较，打印最大差。
 * 每个数组单独 malloc、不多一个字节，越界一读就被 AddressSanitizer 抓住；交叉编译后也在 qemu 里跑。 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "lstm.h"

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

int main(int argc, char **argv) {
    if (argc != 2 || !(in = fopen(argv[1], "rb"))) return 2;
    int32_t cases, head[6];
    get(&cases, 4);
    for (int32_t k = 0; k < cases; k++) {
        get(head, sizeof head);
        lstm_net net = {head[0], head[1], head[2], head[3], NULL};
        const int32_t batch = head[4], frames = head[5], count = net.layers * net.directions;
        lstm_cell *cells = malloc(sizeof *cells * (size_t)count);
        for (int32_t i = 0; i < count; i++) {
            int32_t sizes[6];
            get(sizes, sizeof sizes);
            lstm_cell cell = {0};
            cell.input_size = sizes[0], cell.hidden_size = sizes[1], cell.output_size = sizes[2];
            cell.wide = sizes[3], cell.narrow = sizes[4], cell.backward = sizes[5];
            cell.weight = array(NULL), cell.bias = array(NULL), cell.scale = array(NULL);
            cell.offset = array(NULL), cell.projection = array(NULL);
            cells[i] = cell;
        }
        net.cells = cells;
        if (!lstm_level_supported(net.level)) {
            fprintf(stderr, "级别 %d 不能用\n", net.level);
            return 2;
        }
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
