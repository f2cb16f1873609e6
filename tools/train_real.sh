#!/bin/sh
# 随书发的权重是这样训练的：合成语音与十几族合成噪声，加上真的普通话词与真的噪声。
# 用法：tools/train_real.sh 真录音的根 输出文件夹 [train 的别的选项]
# 根里要有 speech/cmn_tan、speech/cmn_wang（shtooka.net 的普通话词与音节）、speech/librispeech（只用来验证）
# 与 noise（ESC-10，文件名以折号开头）。
# 第 5 折的噪声、序号以 0 结尾的词不进训练。断了再来一次，就接着训练。
set -eu
root=$1 out=$2
shift 2
if [ ! -d "$out-valid" ]; then
    python -m lstm_lib mix --speech "$root/speech/librispeech=1" "$root/speech/cmn_tan=1" --noise "$root/noise" \
        --only-speech '*.ogg' '*0.mp3' --only-noise '5-*' --count 128 --max-bad 0.2 --out "$out-valid"
fi
exec python -m lstm_lib train \
    --speech 内置=4 "$root/speech/cmn_tan=4" "$root/speech/cmn_wang=2" \
    --noise 内置=6 "$root/noise=4" --leave-out '5-*' '*0.mp3' --valid "$out-valid" --valid-segments 96 \
    --epochs 160 --steps 150 --batch 16 --seconds 2 --lr 0.003 --snr -8 18 --level -40 -10 \
    --loss clear --augment --average 0.999 --seed 0 --workers 1 --out "$out" "$@"
