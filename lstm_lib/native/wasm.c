/* WebAssembly 模块的出口：网页与 wasmtime 只看得见这里的函数。
 *
 * 地址与长度都是 int32：64 位的参数在 JavaScript 里是 BigInt，每次调用都要新建一个对象。
 * 数组都在模块自己的内存里：先 allocate，把数写进去，再把地址交给函数。打开时内存可能变大，
 * JavaScript 里看内存的视图要重新取；process 与 network_run 不分配，视图一直有效。
 * 出错的函数返回 0（process 返回错误码），error_code、error_offset、error_message 说明最近一次的错误。 */
#include "enhancer.h"

#include <stdlib.h>
#include <string.h>

#define EXPORT(name) __attribute__((export_name(#name)))

static enhancer_error error;

EXPORT(allocate) void *wasm_allocate(int32_t bytes) {
    return bytes < 0 ? NULL : aligned_alloc(64, ((size_t)bytes + 63) / 64 * 64);
}

EXPORT(release) void wasm_release(void *memory) { free(memory); }

EXPORT(error_code) int32_t wasm_error_code(void) { return error.code; }

EXPORT(error_offset) int32_t wasm_error_offset(void) { return (int32_t)error.offset; }

EXPORT(error_message) const char *wasm_error_message(void) { return enhancer_message(error.code); }

// [增强器]
/* group：一次最多几个帧移一起算；网页用 1，mask 与 spectrum 就是刚算完的那一帧。 */
EXPORT(open)
enhancer *wasm_open(const void *model, int32_t bytes, int32_t quantize, int32_t group) {
    const enhancer_options options = {-1, quantize, group};
    return enhancer_open(model, bytes, &options, &error);
}

EXPORT(process)
int32_t wasm_process(enhancer *e, const float *in, float *out, int32_t hops) {
    return enhancer_process(e, in, out, hops, &error);
}

EXPORT(reset) void wasm_reset(enhancer *e) { enhancer_reset(e); }

EXPORT(close) void wasm_close(enhancer *e) { enhancer_close(e); }

/* enhancer_facts 的地址：八个 int32（采样率、帧移、延迟、级别、是否 int8、层数、输入、隐藏），两个 int64（内存） */
EXPORT(info) const enhancer_facts *wasm_info(const enhancer *e) {
    static enhancer_facts facts;
    facts = enhancer_info(e);
    return &facts;
}

/* 刚算完的那一组里第一帧的掩蔽 [n_fft/2 + 1] 与网络看到的带噪幅度谱 [input_size] */
EXPORT(mask) const float *wasm_mask(const enhancer *e) { return e->mask; }

EXPORT(spectrum) const float *wasm_spectrum(const enhancer *e) { return e->x; }
// [/增强器]

// [网络]
/* 只有网络，没有 STFT：给引擎用。状态 h、c 各 [layers][…]，调用者可以读写。 */
enum { MOST_FRAMES = 48 };

typedef struct {
    const lstm_model *model;
    lstm_stream stream;
    float *hidden; /* [MOST_FRAMES][output_size] */
    void *head_scratch;
    int64_t states; /* h 与 c 占多少字节，从 stream.h 起 */
} network;

EXPORT(network_open)
network *network_open(const void *file, int32_t bytes, int32_t quantize) {
    int level = LSTM_LEVELS - 1;
    while (level > 0 && !lstm_level_supported(level)) level--;
    const int64_t size = lstm_model_bytes(file, bytes, level, quantize, &error);
    if (size < 0) return NULL;
    char *memory = size > INT32_MAX / 2 ? NULL : wasm_allocate((int32_t)size);
    network *n = NULL;
    if (!memory) return error = (enhancer_error){LSTM_MEMORY, -1}, NULL;
    const lstm_model *model = lstm_model_open(file, bytes, level, quantize, memory, &error);
    if (model && lstm_streamable(&model->net)) {
        const lstm_net *net = &model->net;
        const lstm_cell *cell = net->cells;
        for (int pass = 0; pass < 2; pass++) { /* 先算大小，再排 */
            arena a = {(char *)n, 0};
            network *at = reserve(&a, 1, sizeof *n);
            float *h = reserve(&a, (int64_t)model->layers * cell->output_size, 4);
            float *c = reserve(&a, (int64_t)model->layers * cell->hidden_size, 4);
            float *hidden = reserve(&a, (int64_t)MOST_FRAMES * cell->output_size, 4);
            void *scratch = reserve(&a, lstm_scratch_bytes(net, MOST_FRAMES, 1), 1);
            const int64_t head = model->head ? lstm_dense_bytes(net, model->head, MOST_FRAMES) : 0;
            void *head_scratch = reserve(&a, head, 1);
            if (pass) {
                *at = (network){model,
                                {net, h, c, scratch, 1, 0},
                                hidden,
                                head_scratch,
                                (char *)hidden - (char *)h};
                memset(h, 0, (size_t)at->states);
            } else if (!(n = wasm_allocate((int32_t)a.used))) {
                error = (enhancer_error){LSTM_MEMORY, -1};
                break;
            }
        }
    } else if (model) {
        error = (enhancer_error){LSTM_FLAGS, 16};
    }
    if (!n) free(memory);
    return n;
}

/* x [frames][input_size] → y [frames][网络的输出]，状态就地更新 */
EXPORT(network_run)
void network_run(network *n, const float *x, float *y, int32_t frames) {
    const lstm_model *model = n->model;
    const lstm_net *net = &model->net;
    const int32_t width = net->cells->output_size;
    while (frames > 0) {
        const int32_t some = frames < MOST_FRAMES ? frames : MOST_FRAMES;
        lstm_run(&n->stream, x, n->hidden, some);
        if (model->head)
            lstm_dense(net, model->head, model->sigmoid, n->hidden, y, some, n->head_scratch);
        else if (model->sigmoid)
            lstm_sigmoid(net->level, n->hidden, y, (int64_t)some * width);
        else
            memcpy(y, n->hidden, sizeof *y * (size_t)(some * width));
        x += some * model->input_size, y += some * model->output_size, frames -= some;
    }
}

EXPORT(network_h) float *network_h(network *n) { return n->stream.h; }

EXPORT(network_c) float *network_c(network *n) { return n->stream.c; }

EXPORT(network_close) void network_close(network *n) {
    if (n) free((void *)n->model), free(n);
}
// [/网络]
