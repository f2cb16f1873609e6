/* 教学程序，“项目”一章用：板子上的全部程序，读一个 .lstm 文件，一帧一帧地走，状态留在内存里。
 *     cc -std=gnu11 -O2 -ffp-contract=off -DLEVEL=portable -DHAVE_PORTABLE \
 *        board.c kernel.c dispatch.c model.c -o board -lm
 *     ./board 模型.lstm < 输入 > 输出
 * 输入、输出都是裸的 float32：一帧进 input_size 个，出 output_size 个。没有 malloc，大小在编译时定死。
 * -DHEAD、-DTAIL 换上 board_head.h（原始样点进）与 board_tail.h（警报出）。 */
#include "model.h"

#include <stdio.h>

// [读文件]
enum { ROOM = 64 << 10, MOST = 256 }; /* 模型、权重、草稿各至多 64 KB；一帧与状态各至多 256 个数 */
static uint8_t model[ROOM];

static int64_t read_model(const char *name) {
    FILE *file = fopen(name, "rb");
    if (!file) return 0;
    const size_t bytes = fread(model, 1, ROOM, file);
    fclose(file);
    return (int64_t)bytes;
}
// [/读文件]

// [进出]
#ifdef HEAD
#include "board_head.h"
#else
enum { WIDTH = 0 }; /* 网络要几个就读几个 */
static int read_frame(float *x, size_t inputs) {
    return fread(x, sizeof *x, inputs, stdin) == inputs;
}
#endif

#ifdef TAIL
#include "board_tail.h"
#else
static void write_frame(const float *out, size_t outputs) {
    fwrite(out, sizeof *out, outputs, stdout);
}
#endif
// [/进出]

// [一帧一帧]
static _Alignas(64) uint8_t weights[ROOM], scratch[ROOM];
static float x[MOST], y[MOST], out[MOST], h[MOST], c[MOST]; /* 上电时 h、c 是零 */

static int stop(const char *why) {
    fprintf(stderr, "%s\n", why);
    return 1;
}

int main(int count, char **names) {
    lstm_error error;
    const int64_t bytes = read_model(count == 2 ? names[1] : "");
    if (!bytes) return stop("读不到模型");
    if (bytes == ROOM) return stop("模型太大：把 ROOM 改大");
    const int64_t need = lstm_model_bytes(model, bytes, LSTM_PORTABLE, LSTM_FLOAT32, &error);
    if (need < 0) return stop(lstm_message(error.code));
    if (need > ROOM) return stop("权重太大：把 ROOM 改大");
    const lstm_model *m =
        lstm_model_open(model, bytes, LSTM_PORTABLE, LSTM_FLOAT32, weights, &error);
    if (!m) return stop(lstm_message(error.code));
    const int64_t units = (int64_t)m->layers * m->net.cells->hidden_size;
    const int64_t outs =
        (int64_t)m->layers * m->net.cells->output_size; /* 有投影层时与 units 不同 */
    if (!lstm_streamable(&m->net) || !m->head) return stop("只收单向的 LSTM 加一个线性层");
    if (WIDTH && m->input_size != WIDTH) return stop("网络的输入不是 6 个数，而头算出 6 个数");
    if (units > MOST || outs > MOST || m->input_size > MOST || m->output_size > MOST)
        return stop("网络太宽：把 MOST 改大");
    const int64_t lstm = lstm_scratch_bytes(&m->net, 1, 1);
    const int64_t dense = lstm_dense_bytes(&m->net, m->head, 1);
    const int64_t draft = lstm > dense ? lstm : dense;
    if (draft > ROOM) return stop("草稿太大：把 ROOM 改大");
    fprintf(stderr, "用到：模型 %d、权重 %d、草稿 %d 字节，状态 %d 个数\n", (int)bytes, (int)need,
            (int)draft, (int)(units + outs));
    lstm_stream s = {&m->net, h, c, scratch, 1, 0};
    const size_t in = (size_t)m->input_size, outputs = (size_t)m->output_size;
    while (read_frame(x, in)) { /* 一帧 */
        lstm_run(&s, x, y, 1);
        lstm_dense(&m->net, m->head, m->sigmoid, y, out, 1, scratch);
        write_frame(out, outputs);
    }
    return 0;
}
// [/一帧一帧]
