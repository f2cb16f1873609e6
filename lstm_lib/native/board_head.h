/* 教学程序 board.c 的头，“项目”一章用：-DHEAD 编译进来。进来的是三轴的加速度，一帧 3 × 16 个样点。 */
#include <math.h>

// [头]
enum { AXES = 3, PER = 16, WIDTH = 2 * AXES }; /* 轴、每帧的样点、每帧的特征 */

/* 0 没有对数，先垫一个下限；标准差是 NaN 的照样传下去，fmaxf 会把它换成好看的下限 */
static float log_of(float v) { return logf(v < 1e-6f ? 1e-6f : v); }

/* 六个数：各轴的标准差（分母取 16，不取 15），各轴的峰值，都取自然对数。 */
static void features(float a[AXES][PER], float *x) {
    for (int axis = 0; axis < AXES; axis++) {
        float mean = 0, square = 0, peak = 0;
        for (int k = 0; k < PER; k++) mean += a[axis][k] / PER;
        for (int k = 0; k < PER; k++) {
            const float away = a[axis][k] - mean;
            square += away * away;
            peak = fmaxf(peak, fabsf(a[axis][k]));
        }
        x[axis] = log_of(sqrtf(square / PER));
        x[AXES + axis] = log_of(peak);
    }
}

static int read_frame(float *x, size_t inputs) {
    float a[AXES][PER];
    if (inputs != WIDTH || fread(a, sizeof a, 1, stdin) != 1) return 0;
    features(a, x);
    return 1;
}
// [/头]
