/* 命令行程序 enhancer：裸的 PCM 从标准输入到标准输出，或 wav 到 wav。只用 enhancer.h 里的接口。 */
#ifndef _WIN32
#define _POSIX_C_SOURCE 200809L
#define _XOPEN_SOURCE 700 /* realpath */
#define _DARWIN_C_SOURCE
#endif
#define _FILE_OFFSET_BITS 64
#include "enhancer.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#ifdef _WIN32
#include <windows.h>
#include <shellapi.h>
#include <fcntl.h>
#include <io.h>
#include <process.h>
#else
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>
#endif

static const char HELP[] =
    "用法：enhancer 模型 [选项] [输入 [输出]]\n"
    "\n"
    "语音增强：读一帧、算一帧、写一帧。输出与输入一样长，而且对齐。\n"
    "\n"
    "  模型   python -m lstm_lib export --to bin 写出的文件（整个网络，float32、float16 或 int8）\n"
    "  输入   wav 文件（8、16、24、32 位整数或浮点，任意声道数，采样率与模型相同）；\n"
    "         不写或写 - 是标准输入：16 位小端单声道的裸 PCM，开头是 wav 文件头时按 wav 读\n"
    "  输出   wav 文件，样点类型与输入相同，整个写完才出现；不写或写 - "
    "是标准输出，有没有文件头同输入\n"
    "\n"
    "选项：\n"
    "  --raw          输入、输出都是裸 PCM，没有文件头，给了文件名也一样\n"
    "  --float        裸 PCM 是 32 位浮点（小端，满幅 ±1），不是 16 位整数\n"
    "  --int8         把 float32 的权重量化成 int8 来算：快几倍，结果略有不同\n"
    "  --float16      把 float32 的权重存成半精度来算：内存少一半，结果差得很小\n"
    "  --level 级别   指令集：portable、avx2、avx512、neon_dot；默认取这台机器支持的最高一级\n"
    "  -q, --quiet    不在标准错误上写总结与提醒，只报错误\n"
    "  -h, --help     显示本帮助并退出\n"
    "  --version      显示版本并退出\n"
    "\n"
    "例子：\n"
    "  enhancer irm.lstm 带噪.wav 增强.wav\n"
    "  enhancer irm.lstm < 带噪.pcm > 增强.pcm\n"
    "  arecord -t raw -f S16_LE -r 16000 | enhancer irm.lstm | aplay -t raw -f S16_LE -r 16000\n"
    "\n"
    "总结里的用时：管道一帧一量；文件是 16 帧一批，量的是一批里的平均。\n"
    "从管道、麦克风来的声音，按 Ctrl-C 就停止，已收到的照样写完；处理文件时中断，什么也不留下。\n"
    "\n"
    "退出码：0 成功；1 文件或参数有问题，错误信息会说明怎么办；2 命令行写错；130 被 Ctrl-C "
    "中断。\n";

/* ---- 退出：写了一半的临时文件总要删掉 ---- */

static char *temporary; /* 正在写的临时文件；NULL：没有 */
static volatile sig_atomic_t interrupted;
static int stopped; /* 正在录的时候被中断：已收到的照样写完，最后以它为退出码 */

static void on_signal(int number) { interrupted = number; }

#ifdef _WIN32
static wchar_t *wide(const char *text) { /* UTF-8 → UTF-16；调用者归还 */
    const int size = MultiByteToWideChar(CP_UTF8, 0, text, -1, NULL, 0);
    wchar_t *out = malloc(sizeof *out * (size_t)(size + 1));
    if (out) MultiByteToWideChar(CP_UTF8, 0, text, -1, out, size);
    return out;
}

static FILE *open_file(const char *path, const char *mode) {
    wchar_t *name = wide(path), *how = wide(mode);
    FILE *file = name && how ? _wfopen(name, how) : NULL;
    free(name), free(how);
    return file;
}

static void remove_file(const char *path) {
    wchar_t *name = wide(path);
    if (name) _wremove(name);
    free(name);
}

static int replace_file(const char *from, const char *to) {
    wchar_t *old = wide(from), *new = wide(to);
    const int good = old && new && MoveFileExW(old, new, MOVEFILE_REPLACE_EXISTING);
    free(old), free(new);
    if (!good) errno = EACCES;
    return good ? 0 : -1;
}
#else
static FILE *open_file(const char *path, const char *mode) { return fopen(path, mode); }
static void remove_file(const char *path) { remove(path); }
static int replace_file(const char *from, const char *to) { return rename(from, to); }
#endif

_Noreturn static void leave(int code) {
    if (temporary) remove_file(temporary);
    exit(code);
}

_Noreturn static void stop_interrupted(void) {
    fprintf(stderr, "已中断。\n");
    leave(128 + (int)interrupted);
}

_Noreturn __attribute__((format(printf, 1, 2))) static void fail(const char *format, ...) {
    if (interrupted) stop_interrupted(); /* 打开、读写是被它打断的 */
    va_list list;
    va_start(list, format);
    fprintf(stderr, "错误：");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n");
    va_end(list);
    leave(1);
}

_Noreturn __attribute__((format(printf, 1, 2))) static void misuse(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fprintf(stderr, "错误：");
    vfprintf(stderr, format, list);
    fprintf(stderr, "\n用法：enhancer 模型 [选项] [输入 [输出]]；enhancer --help 显示全部说明\n");
    va_end(list);
    leave(2);
}

static const char *reason(int error) {
    switch (error) {
    case ENOSPC:
        return "磁盘满了";
    case EFBIG:
        return "超过了文件大小的限制";
    case EROFS:
        return "文件系统是只读的";
    case EACCES:
    case EPERM:
        return "没有权限";
    case ENOENT:
        return "不存在";
    case ENOTDIR:
        return "路径中间有一段不是文件夹";
    case EISDIR:
        return "是一个文件夹";
    case EIO:
        return "磁盘读写出错";
    case ENAMETOOLONG:
        return "名字太长";
    case ENOMEM:
        return "内存不够";
    case EBADF:
        return "没有打开";
    case EBUSY:
        return "正被别的程序占着";
#ifdef EDQUOT
    case EDQUOT:
        return "磁盘配额用完了";
#endif
#ifdef ELOOP
    case ELOOP:
        return "符号链接绕成了圈";
#endif
    default:
        return strerror(error);
    }
}

static void *get_memory(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size);
    if (!p) fail("内存不够：要 %.1f MB。", (double)count * (double)size / 1e6);
    return p;
}

/* ---- 样点的格式 ---- */

typedef enum { U8, S16, S24, S32, F32, F64 } sample_kind;
static const int sample_bytes[] = {1, 2, 3, 4, 4, 8};

typedef struct {
    sample_kind kind;
    int channels, wav; /* wav：有文件头 */
    uint32_t rate;
    unsigned char fmt[40]; /* wav 的 fmt 块，输出照抄 */
    uint32_t fmt_bytes;
} sound_format;

static uint32_t get16(const unsigned char *p) { return p[0] | (uint32_t)p[1] << 8; }
static uint32_t get32(const unsigned char *p) { return get16(p) | get16(p + 2) << 16; }
static uint64_t get64(const unsigned char *p) { return get32(p) | (uint64_t)get32(p + 4) << 32; }
static void put16(unsigned char *p, uint32_t v) { p[0] = v & 255, p[1] = v >> 8 & 255; }
static void put32(unsigned char *p, uint32_t v) { put16(p, v), put16(p + 2, v >> 16); }

/* 一个样点 → 浮点，满幅是 ±1 */
static float decode(sample_kind kind, const unsigned char *p) {
    float single;
    double twice;
    const uint64_t bits = kind == F64 ? get64(p) : 0;
    const uint32_t word = kind == F32 ? get32(p) : 0;
    switch (kind) {
    case U8:
        return (float)(p[0] - 128) / 128;
    case S16:
        return (float)(int16_t)get16(p) / 32768;
    case S24:
        return (float)((int32_t)(get16(p) << 8 | (uint32_t)p[2] << 24) / 256) / 8388608;
    case S32:
        return (float)((double)(int32_t)get32(p) / 2147483648.0);
    case F32:
        memcpy(&single, &word, 4);
        return single;
    default:
        memcpy(&twice, &bits, 8);
        return (float)twice;
    }
}

/* 浮点 → 一个样点：就近取整；整数的格式超过满幅就削平，返回 1 */
static int encode(sample_kind kind, float value, unsigned char *p) {
    if (kind == F32) {
        uint32_t bits;
        memcpy(&bits, &value, 4);
        put32(p, bits);
        return 0;
    }
    if (kind == F64) {
        const double twice = value;
        uint64_t bits;
        memcpy(&bits, &twice, 8);
        put32(p, (uint32_t)bits), put32(p + 4, (uint32_t)(bits >> 32));
        return 0;
    }
    const double full = kind == U8    ? 128
                        : kind == S16 ? 32768
                        : kind == S24 ? 8388608
                                      : 2147483648.0;
    const double x = rint((double)value * full);
    const double kept = x < -full ? -full : x > full - 1 ? full - 1 : x;
    const int32_t n = (int32_t)kept;
    if (kind == U8)
        p[0] = (unsigned char)(n + 128);
    else if (kind == S16)
        put16(p, (uint32_t)n);
    else if (kind == S24)
        put16(p, (uint32_t)n), p[2] = (uint32_t)n >> 16 & 255;
    else
        put32(p, (uint32_t)n);
    return fabsf(value) > 1; /* 恰好满幅的 1.0 差不到一格，不算削平 */
}

/* ---- 输入 ---- */

typedef struct {
    FILE *file;
    const char *name;
    sound_format format;
    unsigned char ahead[12]; /* 为了认出文件头而先读的几个字节 */
    size_t ahead_bytes, ahead_used;
    int64_t left; /* 数据还剩多少字节；-1：读到头为止 */
    int known;    /* 文件头里的长度可信 */
    int longer;   /* 文件头里的长度说少了 */
    int padded;   /* 数据是奇数长，后面补一个零 */
    int live;     /* 管道、麦克风：不知道何时完 */
    int begun;    /* 已经收到过声音 */
} source;

/* 被中断了：正在录，就当声音到此为止；处理文件，就不要了 */
static void heed(source *in) {
    if (!interrupted) return;
    if (!in->live || !in->begun) stop_interrupted();
    stopped = (int)interrupted, interrupted = 0; /* 再按一次 Ctrl-C，就真的不要了 */
}

/* 读满 size 字节，除非到头了 */
static size_t read_bytes(source *in, unsigned char *to, size_t size) {
    size_t got = 0;
    if (stopped) return 0;
    while (got < size && in->ahead_used < in->ahead_bytes) to[got++] = in->ahead[in->ahead_used++];
    while (got < size && !interrupted) {
        got += fread(to + got, 1, size - got, in->file);
        if (got == size || feof(in->file)) break;
        if (ferror(in->file)) {
            if (errno == EINTR) {
                clearerr(in->file);
                continue;
            }
            heed(in);
            fail("%s 读不下去：%s；请检查磁盘或重新复制。", in->name, reason(errno));
        }
    }
    heed(in);
    return got;
}

static void need(source *in, unsigned char *to, size_t size) {
    if (read_bytes(in, to, size) < size)
        fail("%s 的文件头还没完就断了；请重新导出或下载。", in->name);
}

static void read_fmt(source *in, const unsigned char *p, uint32_t size) {
    sound_format *f = &in->format;
    static const unsigned char guid[14] = {0, 0, 0,    0, 0x10, 0,    0x80,
                                           0, 0, 0xaa, 0, 0x38, 0x9b, 0x71};
    if (size < 16)
        fail("%s 的 fmt 块只有 %u 字节，至少应有 16；文件损坏，请重新导出。", in->name, size);
    uint32_t tag = get16(p);
    const uint32_t channels = get16(p + 2), rate = get32(p + 4), frame = get16(p + 12);
    const uint32_t bits = get16(p + 14);
    if (tag == 0xfffe && size >= 40 && !memcmp(p + 26, guid, 14)) tag = get16(p + 24);
    if (tag != 1 && tag != 3)
        fail("%s 里的样点是压缩过的或别的编码（编号 0x%04x），本程序只收整数与浮点 "
             "PCM；请先转换：ffmpeg -i "
             "输入 -c:a pcm_s16le 输出.wav",
             in->name, tag);
    if (!channels || !rate || frame != channels * ((bits + 7) / 8))
        fail("%s 的文件头自相矛盾：%u 声道，%u Hz，%u 位，每帧 %u 字节；文件损坏，请重新导出。",
             in->name, channels, rate, bits, frame);
    const uint32_t bytes = (bits + 7) / 8;
    if (tag == 1 && bytes >= 1 && bytes <= 4)
        f->kind = bytes == 1 ? U8 : bytes == 2 ? S16 : bytes == 3 ? S24 : S32;
    else if (tag == 3 && (bits == 32 || bits == 64))
        f->kind = bits == 32 ? F32 : F64;
    else
        fail("%s 的样点是 %u 位%s，本程序收 8、16、24、32 位整数与 32、64 位浮点；请先转换。",
             in->name, bits, tag == 3 ? "浮点" : "整数");
    f->channels = (int)channels, f->rate = rate;
    f->fmt_bytes = size < 40 ? 16 : 40; /* 18 字节的那种，后两个字节是零长度 */
    memcpy(f->fmt, p, f->fmt_bytes);
    if (get16(p) == 0xfffe && f->fmt_bytes == 40) put16(f->fmt + 16, 22);
}

#define STREAMED 0x7fff0000u /* 从这里起，多半是回不了头的程序随便填的：sox 的还按块取整 */

/* 看得见的字符，或换行 */
static int is_seen(unsigned char c) { return (c >= 0x20 && c <= 0x7e) || c == '\r' || c == '\n'; }

/* 声音之后接着的 8 个字节像不像一个块：名字是四个看得见的字符 */
static int is_chunk(const unsigned char *head) {
    return is_seen(head[0]) && is_seen(head[1]) && is_seen(head[2]) && is_seen(head[3]);
}

/* 一定是块或标签的，长度写错了、下载断了也认得出 */
static int is_known(const unsigned char *head) {
    static const char names[][5] = {"LIST", "INFO", "id3", "ID3",  "TAG",  "APET", "bext",
                                    "iXML", "fact", "cue", "smpl", "JUNK", "PAD ", "_PMX"};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++)
        if (!memcmp(head, names[k], strlen(names[k]))) return 1;
    return 0;
}

/* 从 place 起直到文件末尾（rest 字节）没有声音：到头了；是一个个块，正好到末尾；是标签、文字，或者全是补的零 */
static int is_tail(FILE *file, long place, uint64_t rest) {
    unsigned char some[4096];
    size_t got, zeros = 0, text = 0;
    if (rest < 8 || fseek(file, place, SEEK_SET)) return 1;
    if ((got = fread(some, 1, 64, file)) < 8) return 1;
    while (zeros < 3 && !some[zeros]) zeros++; /* 块的前面有人多补几个零 */
    if (is_known(some) || is_known(some + zeros)) return 1;
    while (text < got && is_seen(some[text])) text++;
    if (text == got) return 1;
    for (uint64_t at = 0; rest - at >= 8;) {
        if (at > (uint64_t)(LONG_MAX - place) || fseek(file, place + (long)at, SEEK_SET) ||
            fread(some, 1, 8, file) < 8 || !is_chunk(some))
            break;
        const uint64_t size = get32(some + 4);
        at += 8 + size + (size & 1);
        if (at >= rest) return at <= rest + 1;
        if (rest - at < 8) return 1;
    }
    if (rest > 16 << 20 || fseek(file, place, SEEK_SET)) return 0;
    while ((got = fread(some, 1, sizeof some, file)))
        for (size_t k = 0; k < got; k++)
            if (some[k]) return 0;
    return 1;
}

/* 普通文件里的数据真有多少字节：头里说 size，其后却不是块，头就说少了。断电之前没有来得及改，或者超过 4 GB，
 * 32 位装不下，绕了回来。RIFF 的长度正好到文件末尾的，收尾时改过，头是对的。认不出到哪里为止的是 -1，读到头。 */
static int64_t real_length(source *in, uint32_t riff, uint32_t size, uint64_t start) {
    struct stat info;
    const long here = ftell(in->file);
    if (fstat(fileno(in->file), &info) || !S_ISREG(info.st_mode) || here < 0) return size;
    const uint64_t whole = (uint64_t)info.st_size;
    if (start + size >= whole || (uint64_t)riff + 8 == whole) return size;
    int64_t found = -1;
    for (uint64_t turn = size; found < 0 && start + turn <= whole; turn += UINT64_C(1) << 32) {
        if (turn >= (uint64_t)(LONG_MAX - here)) { /* long 是 32 位的，走不到那里，看不了 */
            if (turn == size) found = size;
            break;
        }
        const uint64_t rest = whole - start - turn, odd = rest ? turn & 1 : 0; /* 有的不补到偶数 */
        const long end = here + (long)turn;
        if (is_tail(in->file, end + (long)odd, rest - odd) || (odd && is_tail(in->file, end, rest)))
            found = (int64_t)turn;
    }
    clearerr(in->file);
    fseek(in->file, here, SEEK_SET);
    in->longer = found != (int64_t)size;
    return found;
}

/* 管道里数据完了之后，紧接着又来的不是块：头里的长度说少了。不来的不等（Windows 的管道问不出来，不看）。 */
static int more_sound(source *in) {
#ifdef _WIN32
    (void)in;
    return 0;
#else
    unsigned char head[8];
    int pad = in->padded;
    for (size_t got = 0; got < sizeof head;) {
        struct pollfd ready = {fileno(in->file), POLLIN, 0};
        if (poll(&ready, 1, 50) <= 0 || !(ready.revents & POLLIN)) return 0;
        if (read_bytes(in, head + got, 1) < 1) return 0;
        const int skip = pad && !head[got]; /* 奇数长的数据后面补的零 */
        pad = 0;
        if (!skip) got++;
    }
    return !is_chunk(head) && !is_known(head) && get64(head);
#endif
}

/* 文件头里的长度是不是真的：边录边写的程序填 0、0x7ffff000、0x80000000、0xffffffff 之类，收尾时才改。 */
static int honest_length(source *in, uint32_t riff, uint32_t size, uint64_t start) {
    struct stat info;
    if (!size) return riff && riff < STREAMED && riff + 8 > start; /* 后面还有别的块：真的是空的 */
    if (size < STREAMED) return 1;
    return !fstat(fileno(in->file), &info) && (uint64_t)info.st_size == (uint64_t)riff + 8 &&
           start + size <= (uint64_t)info.st_size;
}

/* 已经读过 12 字节（RIFF….WAVE）：往下读到数据为止 */
static void read_header(source *in) {
    unsigned char chunk[8], body[40];
    const uint32_t riff = get32(in->ahead + 4);
    const int long_file = memcmp(in->ahead, "RIFF", 4) != 0; /* RF64 与 BW64 */
    int empty = 0;
    uint64_t at = 12, length = 0;
    in->ahead_used = in->ahead_bytes;
    in->format.wav = 1;
    for (;;) {
        const size_t got = read_bytes(in, chunk, 8);
        if (got < 8 && empty) { /* 空的那个就是全部 */
            in->left = 0, in->known = 1;
            return;
        }
        if (got < 8)
            fail("%s 里没有%s块，不是完整的 wav；请重新导出或下载。", in->name,
                 in->format.fmt_bytes ? "数据（data）" : "格式（fmt）");
        const uint32_t size = get32(chunk + 4);
        at += 8;
        if (!memcmp(chunk, "data", 4)) {
            if (!in->format.fmt_bytes)
                fail("%s 的数据块前面没有格式（fmt）块；文件损坏，请重新导出。", in->name);
            if (long_file && length)
                in->left = (int64_t)(length & INT64_MAX), in->known = 1;
            else if (!honest_length(in, riff, size, at))
                in->left = -1;
            else if (!size) { /* 有的程序先占个位，真的数据块在后面 */
                empty = 1;
                continue;
            } else
                in->left = in->live ? size : real_length(in, riff, size, at),
                in->known = in->left >= 0, in->padded = size & 1;
            return;
        }
        const uint32_t kept = size < sizeof body ? size : sizeof body;
        need(in, body, kept);
        if (!memcmp(chunk, "fmt ", 4)) read_fmt(in, body, kept);
        if (!memcmp(chunk, "ds64", 4) && kept >= 16) length = get64(body + 8);
        uint64_t skip = (uint64_t)size + (size & 1) - kept; /* 块补到偶数字节 */
        at += kept + skip;
        for (unsigned char waste[4096]; skip;) {
            const size_t some = skip < sizeof waste ? (size_t)skip : sizeof waste;
            need(in, waste, some);
            skip -= some;
        }
    }
}

/* 没有 wav 的文件头：认得出是什么就拒绝；认不出，文件也拒绝，标准输入当裸 PCM。
 * 裸 PCM 碰巧以四个这样的字节开头，几乎没有；以两个字节开头却平常，所以那两种只对文件说。 */
static void refuse_format(source *in, int piped) {
    static const struct {
        int at;
        const char *mark, *what;
    } known[] = {{0, "fLaC", "flac"},
                 {0, "OggS", "ogg"},
                 {0, "ID3", "mp3"},
                 {0, "\xff\xfb", "mp3"},
                 {0, "\xff\xf3", "mp3"},
                 {0, "\xff\xf1", "aac"},
                 {0, "FORM", "aiff"},
                 {0, ".snd", "au"},
                 {0, "caff", "caf"},
                 {0, "riff", "w64"},
                 {4, "ftyp", "m4a 或 mp4"},
                 {0, "\x1a\x45\xdf\xa3", "webm 或 mkv"},
                 {0, "#!AMR", "amr"},
                 {0, "RIFX", "大端的 wav（RIFX）"},
                 {0, "RIFF", "别的 RIFF 文件（不是 WAVE）"}};
    const char *what = NULL;
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        const size_t size = strlen(known[k].mark), end = (size_t)known[k].at + size;
        if (end <= in->ahead_bytes && (!piped || size > 2) &&
            !memcmp(in->ahead + known[k].at, known[k].mark, size))
            what = known[k].what;
    }
    if (what)
        fail("%s 是 %s，本程序只读 wav；请先转换：ffmpeg -i 输入 -c:a pcm_s16le 输出.wav，"
             "或者用 python -m lstm_lib enhance。%s",
             in->name, what, piped ? "真是裸 PCM 的话，请加 --raw。" : "");
    if (piped) return;
    if (!in->ahead_bytes) fail("%s 是空的（0 字节）；请检查录制或下载。", in->name);
    fail("%s 不是 wav 文件（开头没有 RIFF 与 WAVE）；如果是没有文件头的 PCM，请加 "
         "--raw（浮点的再加 --float）。",
         in->name);
}

/* raw：一定没有文件头；标准输入有没有文件头，看开头的 12 个字节 */
static source open_source(const char *path, int raw, int quiet, sample_kind kind, uint32_t rate) {
    source in = {.left = -1, .format = {.kind = kind, .channels = 1, .rate = rate}};
    const int piped = !path || !strcmp(path, "-");
    in.name = piped ? "标准输入" : path;
    in.file = piped ? stdin : open_file(path, "rb");
    if (!in.file) fail("%s：%s；请检查输入的文件名。", path, reason(errno));
    struct stat info;
    const int known = !fstat(fileno(in.file), &info);
    if (known && S_ISDIR(info.st_mode)) fail("%s 是一个文件夹；请给出声音文件。", in.name);
    in.live = !known || !S_ISREG(info.st_mode);
    if (piped) {
        if (isatty(fileno(stdin)))
            fail("标准输入是终端；请给出输入文件，或用管道送进声音（enhancer --help 有例子）。");
    }
    if (in.live) setvbuf(in.file, NULL, _IONBF, 0); /* 要几个字节就读几个，不为凑满缓冲而等 */
    in.ahead_bytes = read_bytes(&in, in.ahead, sizeof in.ahead);
    in.ahead_used = 0;
    const int header = in.ahead_bytes == 12 &&
                       (!memcmp(in.ahead, "RIFF", 4) || !memcmp(in.ahead, "RF64", 4) ||
                        !memcmp(in.ahead, "BW64", 4)) &&
                       !memcmp(in.ahead + 8, "WAVE", 4);
    if (header && raw && !quiet)
        fprintf(stderr, "注意：%s 开头像是 wav 的文件头；加了 --raw，所以当成样点处理。\n",
                in.name);
    else if (header && !raw)
        read_header(&in);
    else if (!raw)
        refuse_format(&in, piped);
    return in;
}

/* 读最多 frames 帧（每帧各声道一个样点）；返回读到的帧数 */
static int64_t read_frames(source *in, unsigned char *to, int64_t frames, int64_t *odd) {
    const int64_t frame = (int64_t)sample_bytes[in->format.kind] * in->format.channels;
    int64_t want = frames * frame;
    if (in->left >= 0 && want > in->left) want = in->left;
    const int64_t got = (int64_t)read_bytes(in, to, (size_t)want);
    if (in->left >= 0) in->left -= got;
    if (got % frame) *odd = got % frame;
    return got / frame;
}

/* ---- 输出 ---- */

typedef struct {
    FILE *file;
    const char *name;
    char *target; /* 临时文件最后叫什么；NULL：直接写 */
    sound_format format;
    int64_t bytes;     /* 已写的数据 */
    int64_t header_at; /* 文件头在文件里的位置；-1：不能回去改 */
    int64_t promised;  /* 文件头里先写的字节数 */
    int64_t clipped;
    float peak;
} sink;

_Noreturn static void write_failed(const sink *out) {
    if (errno == EPIPE)
        leave(stopped ? 128 + stopped : 141); /* 下游走了（head、aplay 被关掉）：不必再说什么 */
    if (interrupted) stop_interrupted();
    fail("%s 写到一半写不下去了：%s；请腾出空间或换一个位置。", out->name, reason(errno));
}

static void write_bytes(sink *out, const unsigned char *from, size_t size) {
    for (size_t done = 0; done < size;) {
        done += fwrite(from + done, 1, size - done, out->file);
        if (done == size) break;
        if (errno != EINTR || interrupted) write_failed(out);
        clearerr(out->file);
    }
}

/* 文件头；bytes 是数据的字节数，-1 表示还不知道 */
static void write_header(sink *out, int64_t bytes) {
    const sound_format *f = &out->format;
    const int64_t whole = 20 + (int64_t)f->fmt_bytes + bytes + (bytes & 1); /* RIFF 之后的 */
    const int known = bytes >= 0 && whole < 0xffffffff;
    unsigned char h[28 + 40] = "RIFF....WAVEfmt ";
    put32(h + 4, known ? (uint32_t)whole : UINT32_MAX);
    put32(h + 16, f->fmt_bytes);
    memcpy(h + 20, f->fmt, f->fmt_bytes);
    memcpy(h + 20 + f->fmt_bytes, "data", 4);
    put32(h + 24 + f->fmt_bytes, known ? (uint32_t)bytes : UINT32_MAX);
    write_bytes(out, h, 28 + f->fmt_bytes);
}

static void make_fmt(sound_format *f) {
    const uint32_t bytes = (uint32_t)sample_bytes[f->kind], channels = (uint32_t)f->channels;
    f->fmt_bytes = 16;
    put16(f->fmt, f->kind >= F32 ? 3 : 1), put16(f->fmt + 2, channels);
    put32(f->fmt + 4, f->rate), put32(f->fmt + 8, f->rate * bytes * channels);
    put16(f->fmt + 12, bytes * channels), put16(f->fmt + 14, 8 * bytes);
}

/* 先在旁边写一个临时文件，写完改名：要么整个出现，要么不出现 */
static void open_target(sink *out, const char *path, int raw) {
    struct stat info;
    const char *end = strrchr(path, '.');
    const int exists = !stat(path, &info);
    if (exists && S_ISDIR(info.st_mode)) fail("输出 %s 是一个已有的文件夹；请给出文件名。", path);
    if (exists && !S_ISREG(info.st_mode)) { /* 设备、管道：直接写 */
        out->file = open_file(path, "wb");
        if (!out->file) fail("写不了 %s：%s；请换一个能写的文件名。", path, reason(errno));
        return;
    }
    if (!raw && (!end || (strcmp(end, ".wav") && strcmp(end, ".WAV") && strcmp(end, ".Wav"))))
        fail("输出 %s 的扩展名不是 .wav；本程序只写 wav 与裸 PCM：要 wav 请换个名字，要裸 PCM 请加 "
             "--raw。",
             path);
    char *target = NULL;
#ifndef _WIN32
    if (exists) target = realpath(path, NULL); /* 符号链接：写它指向的文件 */
#endif
    if (!target) {
        target = get_memory(strlen(path) + 1, 1);
        strcpy(target, path);
    }
    size_t folder = strlen(target);
    while (folder && target[folder - 1] != '/' && target[folder - 1] != '\\') folder--;
    char *name = get_memory(folder + 64, 1);
    for (int attempt = 0; !out->file && attempt < 100; attempt++) {
        snprintf(name, folder + 64, "%.*s.enhancer-%ld-%d.tmp", (int)folder, target,
                 (long)time(NULL) % 1000000 + (long)getpid() * 7, attempt);
        out->file = open_file(name, "wbx");
        if (!out->file && errno != EEXIST) break;
    }
    if (!out->file)
        fail("写不了 %s：%s；请换一个能写的文件夹（要先建好）或文件名。", path,
             errno == ENOENT ? "文件夹不存在" : reason(errno));
    temporary = name, out->target = target;
#ifndef _WIN32
    if (exists) fchmod(fileno(out->file), info.st_mode & 0777);
#endif
}

/* 眼下在文件的哪里；回不来的（管道、以 >> 接在后面的）是 -1 */
static int64_t place_of(FILE *file) {
#ifndef _WIN32
    if (fcntl(fileno(file), F_GETFL) & O_APPEND) return -1;
#endif
    return ftell(file);
}

static sink open_sink(const char *path, int raw, const sound_format *format) {
    sink out = {.format = *format, .header_at = -1};
    const int piped = !path || !strcmp(path, "-");
    out.name = piped ? "标准输出" : path;
    if (piped) {
        out.file = stdout;
        if (isatty(fileno(stdout)))
            fail("标准输出是终端，写上去的声音没法看；请给出输出文件，或接上管道、重定向。");
    } else {
        open_target(&out, path, raw);
        out.format.wav = !raw;
    }
    if (!out.format.fmt_bytes) make_fmt(&out.format);
    return out;
}

/* 改好文件头里的长度，收尾，改名 */
static void close_sink(sink *out) {
    static const unsigned char zero[1];
    if (out->format.wav && out->bytes & 1) write_bytes(out, zero, 1);
    if (out->format.wav && out->header_at >= 0 && out->promised != out->bytes) {
        if (fseek(out->file, (long)out->header_at, SEEK_SET)) write_failed(out);
        write_header(out, out->bytes);
    }
    if (fflush(out->file)) write_failed(out);
    if (!out->target) return;
    if (fclose(out->file)) write_failed(out);
    if (replace_file(temporary, out->target))
        fail("写不了 %s：%s；请换一个能写的文件名。", out->name, reason(errno));
    free(temporary), free(out->target);
    temporary = NULL;
}

/* 从交错的 block 里写 frames 帧 */
static void write_frames(sink *out, const float *block, int64_t frames, unsigned char *buffer) {
    const int size = sample_bytes[out->format.kind];
    const int64_t count = frames * out->format.channels;
    for (int64_t k = 0; k < count; k++) {
        out->clipped += encode(out->format.kind, block[k], buffer + k * size);
        out->peak = fmaxf(out->peak, fabsf(block[k]));
    }
    write_bytes(out, buffer, (size_t)(count * size));
    out->bytes += count * size;
}

/* ---- 模型 ---- */

/* 整个读进来。开头就不对的，不必读完（哪怕它没有尽头）。 */
static unsigned char *read_model(const char *path, size_t *bytes) {
    FILE *file = open_file(path, "rb");
    if (!file) fail("模型 %s：%s；请检查文件名。", path, reason(errno));
    struct stat info;
    if (!fstat(fileno(file), &info) && S_ISDIR(info.st_mode))
        fail("模型 %s 是一个文件夹；请给出其中的模型文件。", path);
    size_t room = 4096, got = 0;
    unsigned char *data = get_memory(room, 1);
    for (;;) {
        got += fread(data + got, 1, room - got, file);
        if (ferror(file)) fail("模型 %s 读不下去：%s。", path, reason(errno));
        if (got < room || interrupted) break;
        enhancer_error error;
        enhancer_bytes(data, (int64_t)got, NULL, &error);
        if (error.code && error.code != LSTM_SHORT) break;
        if (room > SIZE_MAX / 4 || room > INT32_MAX) fail("模型 %s 超过 2 GB，放不进内存。", path);
        unsigned char *more = realloc(data, room *= 2);
        if (!more) fail("模型 %s 放不进内存。", path);
        data = more;
    }
    fclose(file);
    if (interrupted) stop_interrupted();
    *bytes = got;
    return data;
}

static enhancer *open_model(const char *path, const enhancer_options *options) {
    enhancer_error error;
    size_t bytes;
    unsigned char *data = read_model(path, &bytes);
    enhancer *e = enhancer_open(data, (int64_t)bytes, options, &error);
    free(data);
    if (!e && error.code == LSTM_MAGIC)
        fail("模型 %s：第 %lld 字节处，%s。模型由 python -m lstm_lib export --to bin 写出。", path,
             (long long)error.offset, enhancer_message(error.code));
    if (!e && error.offset >= 0)
        fail("模型 %s：第 %lld 字节处，%s。", path, (long long)error.offset,
             enhancer_message(error.code));
    if (!e) fail("模型 %s：%s。", path, enhancer_message(error.code));
    return e;
}

/* ---- 计时：每帧用时的直方图，一倍频程 64 格，多长的声音都只占这么多内存 ---- */

enum { PER_OCTAVE = 64, BINS = 24 * PER_OCTAVE };
#define SMALLEST (1.0 / 16) /* µs */

typedef struct {
    int64_t count[BINS], hops;
    double worst, total; /* µs */
} clockwork;

static double now(void) {
    struct timespec t;
#ifdef _WIN32
    timespec_get(&t, TIME_UTC);
#else
    clock_gettime(CLOCK_MONOTONIC, &t);
#endif
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void note_time(clockwork *c, double took, int64_t hops) {
    const double each = took / (double)hops, place = PER_OCTAVE * log2(fmax(each / SMALLEST, 1));
    c->count[place < BINS - 1 ? (int)place : BINS - 1] += hops;
    c->worst = fmax(c->worst, each), c->total += took, c->hops += hops;
}

static double median_time(const clockwork *c) {
    int64_t seen = 0;
    int k = 0;
    while (k < BINS && (seen += c->count[k]) * 2 < c->hops) k++;
    return SMALLEST * exp2((k + 0.5) / PER_OCTAVE);
}

/* ---- 主循环 ---- */

static const char *const level_names[LSTM_LEVELS] = {
    [LSTM_PORTABLE] = "portable", [LSTM_AVX2] = "avx2", [LSTM_AVX512] = "avx512",
    [LSTM_NEON_DOT] = "neon_dot", [LSTM_WASM] = "wasm", [LSTM_WASM_RELAXED] = "wasm_relaxed",
};

typedef struct {
    const char *model, *input, *output;
    int raw, floats, quiet;
    enhancer_options options;
} request;

/* 第一个坏样点：报它在第几帧、第几声道 */
_Noreturn static void bad_sample(const source *in, const float *block, int64_t frames,
                                 int64_t done) {
    const int channels = in->format.channels;
    for (int64_t k = 0; k < frames * channels; k++)
        if (!(fabsf(block[k]) <= 1e15f))
            fail("%s 第 %lld 个样点（第 %lld 声道）是 "
                 "%g，不是正常的声音；请检查来源，浮点的满幅应是 ±1。",
                 in->name, (long long)(done + k / channels), (long long)(k % channels + 1),
                 (double)block[k]);
    fail("%s 里有不正常的样点。", in->name);
}

static void run(const request *r, enhancer *first) {
    const enhancer_facts facts = enhancer_info(first);
    source in =
        open_source(r->input, r->raw, r->quiet, r->floats ? F32 : S16, (uint32_t)facts.sample_rate);
    if (in.format.rate != (uint32_t)facts.sample_rate)
        fail("%s 的采样率是 %u Hz，这个模型只收 %d Hz；请先转换：ffmpeg -i 输入.wav -ar %d "
             "输出.wav，"
             "或者用 python -m lstm_lib enhance，它收任意采样率。",
             in.name, in.format.rate, facts.sample_rate, facts.sample_rate);
    if (r->floats && in.format.wav)
        fail("%s 是 wav，样点类型写在它的文件头里；请去掉 --float（真是裸 PCM 的话再加 --raw）。",
             in.name);
    const int channels = in.format.channels;
    const int64_t hop = facts.hop, most = in.live ? 1 : 16; /* 管道：一帧一帧地走，不攒 */
    enhancer **e = get_memory((size_t)channels, sizeof *e);
    enhancer_error error;
    e[0] = first;
    for (int c = 1; c < channels; c++)
        if (!(e[c] = enhancer_fork(first, &error)))
            fail("%s 有 %d 个声道：%s。", in.name, channels, enhancer_message(error.code));
    const size_t block = (size_t)(most * hop) * (size_t)channels;
    float *samples = get_memory(block, sizeof *samples),
          *one = get_memory((size_t)(most * hop), sizeof *one);
    unsigned char *buffer = get_memory(block, 8);
    clockwork *clock = get_memory(1, sizeof *clock);
    int64_t read = 0, written = 0, odd = 0, skip = facts.latency - hop, ended = 0;

    int64_t got = read_frames(&in, buffer, most * hop, &odd); /* 有声音，才动输出文件 */
    if (!got) fail("%s 里一个样点也没有（时长为 0）；请换一个有声音的输入。", in.name);
    in.begun = 1;
    sink out = open_sink(r->output, r->raw, &in.format);
    if (out.format.wav) {
        const int64_t frame = (int64_t)channels * sample_bytes[in.format.kind];
        const int64_t rest = in.known ? in.left / frame : -1;
        out.header_at = place_of(out.file);
        out.promised = rest < 0 ? -1 : (got + rest) * frame;
        write_header(&out, out.promised);
    }
    for (;;) {
        ended = got < most * hop;
        read += got;
        for (int64_t k = 0; k < got * channels; k++)
            samples[k] = decode(in.format.kind, buffer + k * sample_bytes[in.format.kind]);
        memset(samples + got * channels, 0,
               (size_t)((most * hop - got) * channels) * sizeof *samples);
        /* 到头了：只算装得下真样点的那几帧，不够的补零 */
        const int64_t hops = got ? (got + hop - 1) / hop : 1;
        const double start = now();
        for (int c = 0; c < channels; c++) {
            for (int64_t k = 0; k < hops * hop; k++) one[k] = samples[k * channels + c];
            if (enhancer_process(e[c], one, one, hops, &error))
                bad_sample(&in, samples, got, read - got);
            for (int64_t k = 0; k < hops * hop; k++) samples[k * channels + c] = one[k];
        }
        note_time(clock, now() - start, hops);
        const int64_t dropped = skip < hops * hop ? skip : hops * hop; /* 开头的延迟不写 */
        skip -= dropped;
        int64_t ready = hops * hop - dropped;
        if (ended && ready > read - written) ready = read - written;
        write_frames(&out, samples + dropped * channels, ready, buffer);
        if (in.live && fflush(out.file)) write_failed(&out);
        written += ready;
        heed(&in);
        if (ended && written == read) break;
        got = ended ? 0 : read_frames(&in, buffer, most * hop, &odd);
    }
    close_sink(&out);
    const int missed = !stopped && in.live && in.known && !in.left && more_sound(&in);
    for (int c = channels - 1; c >= 0; c--) enhancer_close(e[c]);
    free(e), free(samples), free(one), free(buffer);
    if (in.file != stdin) fclose(in.file);

    if (!r->quiet) {
        if (odd && !(in.known && !in.left))
            fprintf(stderr, "注意：%s 末尾有 %lld 字节凑不成一个样点，没有用。\n", in.name,
                    (long long)odd);
        if (in.longer)
            fprintf(stderr,
                    "注意：%s 比文件头说的长，多半是录音没有正常结束，或超过了 4 "
                    "GB；已按真有的读完。\n",
                    in.name);
        if (missed)
            fprintf(stderr,
                    "注意：%s 里还有，文件头却说到此为止，多半是录音没有正常结束；后面的没有处理，"
                    "请先存成文件再来。\n",
                    in.name);
        if (!stopped && in.known && in.left >= (int64_t)channels * sample_bytes[in.format.kind])
            fprintf(
                stderr,
                "注意：%s 比文件头说的短，多半是录制或下载中断了；只处理了读到的 %lld 个样点。\n",
                in.name, (long long)read);
        if (out.clipped)
            fprintf(
                stderr,
                "注意：%s 有 %lld 个样点超过满幅（峰值 %.2f），写成整数时被削平；请先把输入调小，"
                "或改用浮点（裸 PCM 加 --float）。\n",
                out.name, (long long)out.clipped, (double)out.peak);
        static const char *const kinds[] = {"float32", "int8", "float16"};
        const double seconds = (double)read / facts.sample_rate;
        const double computed = (double)(clock->hops * hop) / facts.sample_rate;
        fprintf(stderr,
                "%lld 帧（%.2f 秒，%d 声道），每帧用时中位 %.1f µs、最长 %.1f µs，实时率 "
                "%.5f；%s，%s\n",
                (long long)clock->hops, seconds, channels, median_time(clock), clock->worst,
                clock->total / 1e6 / computed, kinds[facts.quantized], level_names[facts.level]);
    }
    free(clock);
    if (!stopped) return;
    fprintf(stderr, "已中断：收到的声音都写完了。\n");
    leave(128 + stopped);
}

/* ---- 命令行 ---- */

static int find_level(const char *name) {
    char usable[128] = "";
    for (int k = 0; k < LSTM_LEVELS; k++) {
        if (!lstm_level_supported(k)) continue;
        if (!strcmp(name, level_names[k])) return k;
        if (usable[0]) strcat(usable, "、");
        strcat(usable, level_names[k]);
    }
    fail("指令集级别 %s 在这台机器上不能用；可用的有：%s", name, usable);
}

static request parse(int count, char **arguments) {
    request r = {.options = {-1, 0, 0}};
    const char **places[] = {&r.model, &r.input, &r.output};
    size_t found = 0;
    int only_names = 0;
    for (int k = 1; k < count; k++) {
        const char *a = arguments[k];
        if (only_names || a[0] != '-' || !a[1]) {
            if (found == 3) misuse("不认识的参数：%s", a);
            *places[found++] = a;
        } else if (!strcmp(a, "--"))
            only_names = 1;
        else if (!strcmp(a, "-h") || !strcmp(a, "--help"))
            fputs(HELP, stdout), exit(0);
        else if (!strcmp(a, "--version"))
            printf("enhancer %s（模型文件版本 2）\n", ENHANCER_VERSION), exit(0);
        else if (!strcmp(a, "--raw"))
            r.raw = 1;
        else if (!strcmp(a, "--float"))
            r.floats = 1;
        else if (!strcmp(a, "--int8"))
            r.options.quantize = LSTM_INT8;
        else if (!strcmp(a, "--float16"))
            r.options.quantize = LSTM_FLOAT16;
        else if (!strcmp(a, "-q") || !strcmp(a, "--quiet"))
            r.quiet = 1;
        else if (!strcmp(a, "--level")) {
            if (++k == count) misuse("--level 后面要跟一个值");
            r.options.level = find_level(arguments[k]);
        } else if (!strncmp(a, "--level=", 8))
            r.options.level = find_level(a + 8);
        else
            misuse("不认识的选项：%s", a);
    }
    if (!r.model) misuse("缺少参数：模型");
    return r;
}

#ifdef _WIN32
static int same_file(const char *a, const char *b) {
    wchar_t *x = wide(a), *y = wide(b), one[32768], two[32768];
    const int same = x && y && GetFullPathNameW(x, 32768, one, NULL) &&
                     GetFullPathNameW(y, 32768, two, NULL) && !_wcsicmp(one, two);
    free(x), free(y);
    return same;
}
#else
static int same_file(const char *a, const char *b) {
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && S_ISREG(x.st_mode) && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}
#endif

static void prepare_system(int *count, char ***arguments) {
#ifdef _WIN32
    SetConsoleOutputCP(CP_UTF8);
    _setmode(_fileno(stdin), _O_BINARY), _setmode(_fileno(stdout), _O_BINARY);
    wchar_t **wides = CommandLineToArgvW(GetCommandLineW(), count); /* 文件名不受代码页限制 */
    *arguments = get_memory((size_t)*count + 1, sizeof **arguments);
    for (int k = 0; wides && k < *count; k++) {
        const int size = WideCharToMultiByte(CP_UTF8, 0, wides[k], -1, NULL, 0, NULL, NULL);
        (*arguments)[k] = get_memory((size_t)size, 1);
        WideCharToMultiByte(CP_UTF8, 0, wides[k], -1, (*arguments)[k], size, NULL, NULL);
    }
    signal(SIGINT, on_signal);
#else
    (void)count, (void)arguments;
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction old, action = {.sa_handler = on_signal};
    for (size_t k = 0; k < sizeof signals / sizeof *signals; k++)
        if (!sigaction(signals[k], NULL, &old) && old.sa_handler != SIG_IGN) /* nohup 之类的照旧 */
            sigaction(signals[k], &action, NULL); /* 没有 SA_RESTART：正等着输入的 read 要醒来 */
    signal(SIGPIPE, SIG_IGN), signal(SIGXFSZ, SIG_IGN); /* 写不出去由 write 的错误码说 */
#endif
}

int main(int count, char **arguments) {
    prepare_system(&count, &arguments);
    const request r = parse(count, arguments);
    const char *named[] = {r.input, r.model};
    for (int k = 0; k < 2 && r.output && strcmp(r.output, "-"); k++)
        if (named[k] && strcmp(named[k], "-") && same_file(named[k], r.output))
            fail("%s与输出是同一个文件 %s；为免毁掉它，请给输出换一个名字。", k ? "模型" : "输入",
                 r.output);
    enhancer *e = open_model(r.model, &r.options);
    run(&r, e);
    return 0;
}
