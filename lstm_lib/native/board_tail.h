/* 教学程序 board.c 的尾，“项目”一章用：-DTAIL -DTHRESHOLD=0.9f -DHOLD=50 编译进来。一帧出一个字节。 */
#include <math.h>

// [尾]
static int run[MOST]; /* 每种故障的概率已经连着几帧超过门限 */

/* 得分化成概率，连着 HOLD 帧超过门限才报：0 是没有警报，k 是第 k 类的；几类一起报时写编号小的。 */
static void write_frame(const float *score, size_t classes) {
    float top = score[0], sum = 0;
    uint8_t alarm = 0;
    for (size_t k = 1; k < classes; k++) top = fmaxf(top, score[k]);
    for (size_t k = 0; k < classes; k++) sum += expf(score[k] - top); /* 先减最大的，不会溢出 */
    for (size_t k = classes - 1; k > 0; k--) {
        const int over = expf(score[k] - top) / sum > THRESHOLD;
        run[k] = !over ? 0 : run[k] < HOLD ? run[k] + 1 : HOLD; /* 到头不再加，开上几年也不溢出 */
        if (run[k] == HOLD) alarm = (uint8_t)k;
    }
    fwrite(&alarm, sizeof alarm, 1, stdout);
}
// [/尾]
