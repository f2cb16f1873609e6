/* 增强器的打开与关闭：算内存、排各个数组、备好窗与 FFT 的表。每个帧移的工作在 chain.h。 */
#include "enhancer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP = 16, MOST_GROUP = 256 };

#define TWO_PI 6.283185307179586476925287

static enhancer_options settled(const enhancer_options *options) {
    enhancer_options o = options ? *options : (enhancer_options){-1, 0, 0};
    if (o.level < 0)
        for (o.level = LSTM_LEVELS - 1; o.level > 0 && !lstm_level_supported(o.level);) o.level--;
    if (!o.group) o.group = GROUP;
    return o;
}

/* 各路流共用的表；a->base 为 NULL 时只算大小 */
static void share_tables(enhancer *e, arena *a) {
    const int64_t n_fft = e->model->n_fft, half = n_fft / 2;
    e->plan.cosine = reserve(a, half, 4), e->plan.sine = reserve(a, half, 4);
    e->plan.half_c = reserve(a, half + 1, 4), e->plan.half_s = reserve(a, half + 1, 4);
    e->analysis = reserve(a, n_fft, 4), e->synthesis = reserve(a, n_fft, 4);
}

/* 一路流：先是状态，再是草稿 */
static void lay_out_stream(enhancer *e, arena *a) {
    const lstm_model *model = e->model;
    const lstm_net *net = &model->net;
    const lstm_cell *cell = net->cells;
    const int64_t n_fft = model->n_fft, hop = model->hop_length, half = n_fft / 2, bins = half + 1;
    const int64_t row = (bins + 15) / 16 * 16, g = e->group, layers = model->layers;
    e->begin = e->lstm.h = reserve(a, layers * cell->output_size, 4);
    e->lstm.c = reserve(a, layers * cell->hidden_size, 4);
    e->history = reserve(a, n_fft - hop + g * hop, 4), e->overlap = reserve(a, n_fft, 4);
    e->re = reserve(a, g * row, 4), e->im = reserve(a, g * row, 4);
    e->x = reserve(a, g * model->input_size, 4), e->h = reserve(a, g * cell->output_size, 4);
    e->mask = reserve(a, g * bins, 4), e->frame = reserve(a, n_fft, 4);
    for (int k = 0; k < 4; k++) e->parts[k] = reserve(a, half, 4);
    e->lstm.scratch = reserve(a, lstm_scratch_bytes(net, g, 1), 1);
    e->head_scratch = reserve(a, model->head ? lstm_dense_bytes(net, model->head, g) : 0, 1);
}

// [备表]
static void fill_tables(enhancer *e) {
    const int n_fft = e->model->n_fft, half = n_fft / 2, hop = e->model->hop_length;
    fft_plan *plan = &e->plan;
    plan->size = half, plan->count = 0;
    for (int n = half, r = 4; n > 1;) { /* 先 4，再 2、3、5、7…… */
        if (n % r == 0)
            plan->factor[plan->count++] = r, n /= r;
        else
            r = r == 4 ? 2 : r == 2 ? 3 : r + 2;
    }
    for (int k = 0; k <= half; k++) {
        const double turn = TWO_PI * k / n_fft;
        ((float *)plan->half_c)[k] = (float)cos(turn);
        ((float *)plan->half_s)[k] = (float)-sin(turn);
        if (k == half) break;
        ((float *)plan->cosine)[k] = (float)cos(2 * turn);
        ((float *)plan->sine)[k] = (float)-sin(2 * turn);
    }
    for (int k = 0; k < n_fft; k++) { /* 周期型 Hann 的平方根；窗的平方加起来是 n_fft / (2 hop) */
        const double window = sin(TWO_PI / 2 * k / n_fft);
        ((float *)e->analysis)[k] = (float)window;
        ((float *)e->synthesis)[k] = (float)(window * (2.0 * hop / n_fft) / n_fft);
    }
}
// [/备表]

/* 打开之前要知道的：文件里的网络能不能逐帧增强，共用的部分与一路流各要多少字节 */
static int measure(const void *file, int64_t bytes, const enhancer_options *o, enhancer *e,
                   enhancer_error *error) {
    lstm_model model;
    lstm_cell cells[5];
    const int64_t weights = lstm_model_bytes(file, bytes, o->level, o->quantize, error);
    if (weights < 0) return 0;
    lstm_model_outline(file, bytes, o->level, o->quantize, &model, cells, error);
    if (!model.n_fft)
        *error = (enhancer_error){LSTM_NOT_MASK, model.version == 1 ? 8 : 56};
    else if (!lstm_streamable(&model.net))
        *error = (enhancer_error){LSTM_FLAGS, 16};
    else if (o->group < 1 || o->group > MOST_GROUP)
        *error = (enhancer_error){LSTM_OPTION, -1};
    if (error->code) return 0;
    memset(e, 0, sizeof *e);
    e->model = &model, e->group = o->group;
    arena shared = {NULL, weights}, stream = {NULL, 0};
    share_tables(e, &shared);
    reserve(&stream, 1, sizeof *e);
    lay_out_stream(e, &stream);
    e->shared_bytes = shared.used, e->stream_bytes = stream.used;
    return 1;
}

int64_t enhancer_bytes(const void *model, int64_t bytes, const enhancer_options *options,
                       enhancer_error *error) {
    const enhancer_options o = settled(options);
    enhancer e;
    return measure(model, bytes, &o, &e, error) ? e.shared_bytes + e.stream_bytes : -1;
}

/* memory 里放一路流：结构本身，然后是它的状态与草稿；共用的指针从 from 抄来 */
static enhancer *place(const enhancer *from, void *memory) {
    arena a = {memory, 0};
    enhancer *e = reserve(&a, 1, sizeof *e);
    *e = *from;
    e->owned = NULL;
    lay_out_stream(e, &a);
    e->lstm.net = &e->model->net, e->lstm.batch = 1;
    enhancer_reset(e);
    return e;
}

enhancer *enhancer_open_at(const void *model, int64_t bytes, const enhancer_options *options,
                           void *memory, enhancer_error *error) {
    const enhancer_options o = settled(options);
    enhancer e;
    if (!measure(model, bytes, &o, &e, error)) return NULL;
    e.model = lstm_model_open(model, bytes, o.level, o.quantize, memory, error);
    if (!e.model) return NULL;
    arena shared = {memory, lstm_model_bytes(model, bytes, o.level, o.quantize, error)};
    share_tables(&e, &shared);
    fill_tables(&e);
    return place(&e, shared.base + shared.used);
}

/* 向系统要内存，对齐到 64 字节；*raw 是要归还的那个地址 */
static void *allocate(int64_t bytes, void **raw, enhancer_error *error) {
    *raw = (uint64_t)bytes + 64 > SIZE_MAX ? NULL : malloc((size_t)bytes + 64);
    if (!*raw) *error = (enhancer_error){LSTM_MEMORY, -1};
    return *raw ? (void *)(((uintptr_t)*raw + 63) & ~(uintptr_t)63) : NULL;
}

enhancer *enhancer_open(const void *model, int64_t bytes, const enhancer_options *options,
                        enhancer_error *error) {
    const int64_t size = enhancer_bytes(model, bytes, options, error);
    void *raw, *memory = size < 0 ? NULL : allocate(size, &raw, error);
    if (!memory) return NULL;
    enhancer *e = enhancer_open_at(model, bytes, options, memory, error);
    if (e)
        e->owned = raw;
    else
        free(raw);
    return e;
}

enhancer *enhancer_fork_at(const enhancer *e, void *memory) { return place(e, memory); }

enhancer *enhancer_fork(const enhancer *e, enhancer_error *error) {
    void *raw, *memory;
    *error = (enhancer_error){LSTM_OK, -1};
    memory = allocate(e->stream_bytes, &raw, error);
    if (!memory) return NULL;
    enhancer *other = place(e, memory);
    other->owned = raw;
    return other;
}

int32_t enhancer_process(enhancer *e, const float *in, float *out, int64_t hops,
                         enhancer_error *error) {
    const int64_t count = hops * e->model->hop_length;
    *error = (enhancer_error){LSTM_OK, -1};
    int bad = 0;
    for (int64_t k = 0; k < count; k++) bad |= !(fabsf(in[k]) <= 1e15f); /* NaN 也不满足 */
    if (bad) return error->code = LSTM_SAMPLE;
    if (hops > 0) lstm_hops(e->model->net.level, e, in, out, hops);
    return LSTM_OK;
}

void enhancer_reset(enhancer *e) {
    memset(e->begin, 0, (size_t)((char *)e->re - (char *)e->begin));
    e->lstm.turn = 0;
}

void enhancer_close(enhancer *e) {
    if (e) free(e->owned);
}

enhancer_facts enhancer_info(const enhancer *e) {
    const lstm_model *m = e->model;
    return (enhancer_facts){
        .sample_rate = m->sample_rate,
        .hop = m->hop_length,
        .latency = m->n_fft,
        .level = m->net.level,
        .quantized = m->net.quantized,
        .layers = m->layers,
        .input_size = m->input_size,
        .hidden_size = m->net.cells->hidden_size,
        .shared_bytes = e->shared_bytes,
        .stream_bytes = e->stream_bytes,
    };
}

const char *enhancer_message(int32_t code) { return lstm_message(code); }
