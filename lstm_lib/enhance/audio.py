"""声音的进出：读写声音文件、重采样、STFT。

全书约定：16 kHz 单声道 float32；512 点 STFT、帧移 256、周期型平方根 Hann 窗，共 257 个频点。
别的窗长与帧移也行，只要帧移整除窗长、不超过半个窗。
"""

import contextlib
import errno
import functools
import os
import re
import stat
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from lstm_lib.enhance.containers import JOINED, ContainerError, examine, flac_end
from lstm_lib.files import DISK_FULL, REASONS, atomic_path, c_path
from lstm_lib.waves import BLOCK, SAMPLE_RATE, as_wave, first_bad, write_blocks

N_FFT = 512
HOP_LENGTH = 256
BINS = N_FFT // 2 + 1

SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16", ".opus": "OPUS"}
CONTAINERS = {".opus": "OGG", ".aif": "AIFF"}  # 别的扩展名就是格式的名字
OGG_RATE = 200_000  # 再高，libvorbis 不收，libsndfile 却不查，整个进程崩溃
OGG_CHANNELS = 255  # 头里声道数只有一个字节；再多，同样崩溃
RATES = (1000, 3_072_000)  # 低于前者放不下语音，重采样还会把它放大成千上万倍；后者是最快的录音机的几倍
SYSTEM_ERROR = 2  # libsndfile 的 SF_ERR_SYSTEM：操作系统不让读写
UNREAD = 1 << 14  # 读完之后剩这么多字节以内是标签与填充
STDIN = Path("/dev/stdin")
WAITING = 10  # 秒；管道的另一头这么久没有程序来写，就不等了
# 认得出的开头；管道里来的先看它，免得把没完没了的别的数据全存下来
MAGICS = (
    b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b".snd", b"dns.", b"caff", b"fLaC", b"OggS", b"ID3", b"NIST",
    *(bytes([0xFF, 0xE0 + low]) for low in range(32)),
)  # fmt: skip


class AudioError(ValueError):
    """声音文件或声音数据有问题；消息说明是哪个文件、哪里不对、怎么办。"""


def check_stft(n_fft: int, hop_length: int) -> None:
    """窗长与帧移能不能精确还原；不能就报 ``ValueError``。"""
    if n_fft < 2 or n_fft % 2:
        raise ValueError(f"STFT 的窗长 n_fft 应是正偶数，得到 {n_fft}。")
    if hop_length < 1 or n_fft % hop_length or 2 * hop_length > n_fft:
        raise ValueError(
            f"STFT 的帧移 hop_length 应整除窗长 {n_fft}、且不超过它的一半，得到 {hop_length}；"
            f"例如 {n_fft // 2}。"
        )


@functools.cache
def windows(n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """分析窗与合成窗，各 (n_fft,) 的只读 float64。

    周期型 Hann 的平方根就是半个正弦。每个样点落在 R = n_fft / hop_length 帧里，窗的平方加起来恒为 R/2
    （R ≥ 2）；合成窗里除掉它，R = 2 时两个窗一样。
    """
    check_stft(n_fft, hop_length)
    analysis = np.sin(np.pi * np.arange(n_fft) / n_fft)
    synthesis = analysis * (2 * hop_length / n_fft)
    analysis.flags.writeable = synthesis.flags.writeable = False
    return analysis, synthesis


WINDOW = windows()[0].astype(np.float32)


def stft(wave: np.ndarray, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> np.ndarray:
    """短时傅里叶变换，首尾各补 n_fft - 帧移 个零，每个样点都恰好落在 R = n_fft / 帧移 帧里。

    默认的 512/256 是 R = 2、257 个频点，第 t 帧覆盖样点 [256(t-1), 256(t+1))。

    参数:
        wave: (N,)
        n_fft: 窗长，样点，正偶数
        hop_length: 帧移，样点，整除窗长、至多一半
    返回:
        复数谱 (T, n_fft/2+1)，T = ceil(N/帧移) + R - 1；float32 输入得 complex64，float64 输入得 complex128。
    """
    wave = as_wave(wave)
    window, _ = windows(n_fft, hop_length)
    hops, edge = -(-len(wave) // hop_length), n_fft - hop_length
    padded = np.zeros(hops * hop_length + 2 * edge, dtype=wave.dtype)
    padded[edge : edge + len(wave)] = wave
    return np.fft.rfft(sliding_window_view(padded, n_fft)[::hop_length] * window.astype(wave.dtype), axis=-1)


def istft(spectrum: np.ndarray, length: int, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> np.ndarray:
    """逆变换：加窗后重叠相加，与 :func:`stft` 精确互逆。

    参数:
        spectrum: (T, n_fft/2+1)，复数
        length: 要还原几个样点
        n_fft: 同 :func:`stft`
        hop_length: 同 :func:`stft`
    返回:
        波形 (length,)。
    抛出:
        ValueError: 频点数不对，或帧数不够还原这么长
    """
    spectrum = np.asarray(spectrum)
    _, window = windows(n_fft, hop_length)
    if spectrum.ndim != 2 or spectrum.shape[1] != n_fft // 2 + 1:
        raise ValueError(f"谱的形状应为 (T, {n_fft // 2 + 1})，实际是 {spectrum.shape}。")
    overlap = n_fft // hop_length
    hops = max(len(spectrum) - overlap + 1, 0)
    if not 0 <= length <= hops * hop_length:
        raise ValueError(f"{len(spectrum)} 帧最多还原 {hops * hop_length} 个样点，要不出 {length} 个。")
    frames = np.fft.irfft(spectrum, n=n_fft, axis=-1)
    frames *= window.astype(frames.dtype)
    return overlap_add(frames, hop_length).reshape(-1)[:length]


def overlap_add(frames, hop_length: int):
    """重叠相加：加过窗的帧 (…, T, n_fft) → (…, T-R+1, 帧移)；NumPy 数组与 PyTorch 张量都行。

    每段由 R 帧里错开的 R 块相加，先加早的帧；两头不足 R 帧的地方在信号之外，不要。
    """
    overlap = frames.shape[-1] // hop_length
    hops = frames.shape[-2] - overlap + 1
    total = frames[..., :hops, (overlap - 1) * hop_length :]
    for late in range(1, overlap):
        block = slice((overlap - 1 - late) * hop_length, (overlap - late) * hop_length)
        total = total + frames[..., late : late + hops, block]
    return total


class Sound(soundfile.SoundFile):
    """打开着的声音文件。``note`` 是文件头与内容不合之处，接在文件名后面给人看；没有就是空串。"""

    def __init__(self, file, note: str = "", streams=()):
        self.note, self._streams, self._onward = note, streams, False
        super().__init__(file)

    def seekable(self) -> bool:
        """一路往前读时答“否”：否则 soundfile 每读一块都要回头找一次位置，没有写样点数的 FLAC 就读不到头。"""
        return not self._onward and super().seekable()

    def blocks_onward(self):
        """从头到尾一块一块地读，每块 (n, 声道) 的 float32；读不动的抛 :class:`soundfile.SoundFileError`。"""
        self._onward = True
        left = self.frames
        try:
            # 不多要：FLAC 后面跟着标签时，再往前读就是错
            while len(block := self.read(min(BLOCK, left), dtype="float32", always_2d=True)):
                left -= len(block)
                yield block
        finally:
            self._onward = False

    def left_over(self) -> bytes:
        """libsndfile 读到头之后文件里还剩的（最多 16 MiB），不计标签与填充；头里的样点数说少了，它就早早停下。"""
        stream = self._streams[0]
        where = stream.tell()
        rest = stream.read(1 << 24)
        stream.seek(where)
        return rest.partition(b"APETAGEX")[0].rstrip(b"\0")

    def followed(self) -> bool:
        """FLAC 后面是不是又接着一个 FLAC；libsndfile 预读的一段也看。"""
        stream = self._streams[0]
        where = stream.tell()
        stream.seek(max(where - (1 << 17), 4))
        found = b'fLaC\0\0\0"' in stream.read(1 << 24)
        stream.seek(where)
        return found

    def real_end(self, frames: int) -> int:
        """FLAC 里真有的样点数，见 :func:`flac_end`。"""
        stream = self._streams[0]
        where = stream.tell()
        try:
            return flac_end(stream, frames)
        finally:
            stream.seek(where)

    def close(self):
        super().close()
        for stream in self._streams:
            stream.close()


def open_audio(path) -> Sound:
    """打开声音文件（用完要 ``close`` 或放在 ``with`` 里）；打不开时给出中文的 :class:`AudioError`。

    文件头说的长度与文件里真有的不合时，按真有的读，缘由在 ``note`` 里；读不全的不收。管道先整个存进临时文件。
    文件不存在时是 ``FileNotFoundError``，没有权限时是 ``PermissionError``，别的缘由是 ``OSError``。
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_open_binary(path))
        if not stream.read(1):
            raise AudioError(f"{path} 是空文件（0 字节），里面没有声音；多半是录音或下载没有完成。")
        try:
            found = examine(stream)
        except ContainerError as error:
            raise AudioError(f"{path} {error}") from error
        sound = _open_sound(path, stream, found)
        stack.pop_all()
    try:
        if sound.frames >= 1 << 62:  # FLAC 的文件头没有写样点数
            sound._info.frames = _count(path, sound)
        if sound.frames:
            check_rate(sound.samplerate, path)
    except BaseException:
        sound.close()
        raise
    return sound


def _open_sound(path, stream, found) -> Sound:
    source = stream if found.stream is None else found.stream
    source.seek(0)
    try:
        return Sound(source, found.note, (source, stream))
    except (soundfile.SoundFileError, TypeError) as error:
        reason = (
            f"{path} {found.note}；剩下的不够读出声音"
            if found.note
            else (f"{path} 不是能识别的声音文件（看内容，不看扩展名）；请换成 wav 或 flac")
        )
        raise AudioError(f"{reason}。底层的说法：{said(error)}") from error


def said(error) -> str:
    """libsndfile 的话，不带打开的是哪个对象。"""
    return getattr(error, "error_string", str(error))


def _count(path, sound) -> int:
    """读一遍，数出样点数，再回到开头。"""
    try:
        frames = sum(map(len, sound.blocks_onward()))
        sound.seek(0)
    except soundfile.SoundFileError as error:
        raise AudioError(f"{path} 读到一半出错，文件可能损坏或被截断。底层的说法：{said(error)}") from error
    return frames


def _open_binary(path: Path):
    """打开一个可以回头的二进制流；管道存进临时文件，设备、终端与文件夹不收。"""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{path} 是文件夹，这里要的是一个声音文件（wav、flac 等）。")
        if stat.S_ISFIFO(mode):
            return _spool(path)
        if not stat.S_ISREG(mode):
            raise AudioError(
                f"{path} 是{_kind(path, mode)}，不是声音文件；请给出文件名，或用管道把声音文件的内容送进来。"
            )
        return path.open("rb")
    except FileNotFoundError:
        if path == STDIN:
            raise FileNotFoundError(f"标准输入是关着的，或这个系统没有 {path}；请给出文件名。") from None
        if path.is_symlink():
            raise FileNotFoundError(
                f"{path} 是断了的符号链接，它指向的 {os.readlink(path)} 不在；请改正链接。"
            ) from None
        raise FileNotFoundError(f"找不到声音文件 {path}；请检查路径。") from None
    except PermissionError:
        raise PermissionError(f"没有权限读声音文件 {path}。") from None
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(
            f"声音文件 {path} 打不开：{REASONS.get(error.errno, error.strerror)}；请换一个路径。"
        ) from error


def _kind(path, mode) -> str:
    if stat.S_ISSOCK(mode):
        return "套接字"
    if stat.S_ISCHR(mode) and path.name in {"stdin", "0", "tty"}:
        return "终端或空设备（没有文件、管道接到标准输入上）"
    return "设备"


def _spool(path: Path):
    """管道回不了头：整个存进临时文件（关了就没有）。没有程序来写的、来的不是声音的，不等。"""
    spooled = tempfile.TemporaryFile()
    handle = None
    try:
        handle, head = _open_pipe(path)
        while len(head) < 4 and (more := os.read(handle, 1 << 16)):
            head += more
        if not head:
            raise AudioError(f"管道 {path} 里什么也没有；请检查往里写的那个程序。")
        if not head.startswith(MAGICS):
            raise AudioError(
                f"管道 {path} 里来的不是 wav、flac、ogg、mp3、aiff、w64、au、caf；请先存成文件，看看是什么。"
            )
        while head:
            spooled.write(head)
            head = os.read(handle, 1 << 16)
        spooled.seek(0)
        return spooled
    except BaseException as error:
        spooled.close()
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise OSError(
                f"管道 {path} 里的声音要先存进临时文件夹 {tempfile.gettempdir()}，那里{REASONS[error.errno]}；"
                "请先存成文件，或用环境变量 TMPDIR 换一个地方。"
            ) from error
        raise
    finally:
        if handle is not None:
            os.close(handle)


def _open_pipe(path: Path) -> tuple[int, bytes]:
    """打开管道，返回（文件号, 已经读到的字节）；有名字的管道没有程序来写时抛 :class:`AudioError`，不无休止地等。"""
    inherited = re.fullmatch(r"/dev/stdin|/(?:dev|proc/self)/fd/(\d+)", str(path))
    if inherited:  # 重新打开的话，写完就走的那一头已经不在，分不出是没来还是走了
        return os.dup(int(inherited[1] or 0)), b""
    handle, deadline, data = os.open(path, os.O_RDONLY | os.O_NONBLOCK), time.monotonic() + WAITING, b""
    try:
        while not data:  # 没有程序打开写的一头时，立刻读到空
            if time.monotonic() > deadline:
                raise AudioError(
                    f"管道 {path} 等了 {WAITING} 秒也没有程序往里写；请先把声音存成文件，再给出文件名。"
                )
            time.sleep(0.02)
            data = os.read(handle, 1 << 16)
    except BlockingIOError:  # 有程序接着，只是还没有写
        pass
    except BaseException:
        os.close(handle)
        raise
    os.set_blocking(handle, True)
    return handle, data


def check_rate(rate: float, what) -> None:
    """采样率离谱的当场报 :class:`AudioError`；``what`` 是文件名之类，放在消息开头。"""
    low, high = RATES
    if not low <= rate <= high:
        raise AudioError(
            f"{what} 的采样率是 {rate:.10g} Hz，不像录音：这里收 {low} 到 {high} Hz，"
            "再低放不下语音，再高多半是文件头写错了；请检查采样率，或用录音的程序重新导出。"
        )


def too_much(container: str, rate: float, channels: int) -> str | None:
    """这种格式存不下的是什么：libsndfile 不查，写起来整个进程崩溃；存得下是 None。"""
    if container == "OGG" and rate > OGG_RATE:
        return f"{rate} Hz 的声音"
    return f"{channels} 个声道" if container == "OGG" and channels > OGG_CHANNELS else None


def check_samples(samples: np.ndarray, path, start: int = 0) -> np.ndarray:
    """样点里有 NaN、无穷大或大得离谱的数时报错，说明文件与位置；``start`` 是这一块在文件里的起点。"""
    bad = first_bad(samples)
    if bad is not None:
        raise AudioError(
            f"{path} 的第 {start + bad} 个样点（从 0 数起）是 NaN、无穷大，或大得不像声音（满幅是 1）；"
            "请检查产生这个文件的程序，修好再来。"
        )
    return samples


def resample(wave: np.ndarray, rate: float, target: float = SAMPLE_RATE) -> np.ndarray:
    """用 soxr 重采样到 ``target`` Hz；采样率相同时原样返回，离谱时报 :class:`AudioError`。"""
    for each in (rate, target):
        check_rate(each, "要重采样的声音")
    return wave if rate == target else soxr.resample(wave, rate, target)


def read_blocks(sound: Sound, path):
    """从头到尾一块一块地读，每块 (n, 声道) 的 float32；头里说的样点数不作数。

    读不动、含 NaN 或无穷大、文件里还有一大截没有读到：:class:`AudioError`。读完后 ``sound.note`` 说明少了多少。
    """
    frames, onward = 0, sound.blocks_onward()
    while True:
        try:
            block = next(onward, None)
        except soundfile.SoundFileError as error:
            raise AudioError(
                f"{path} 读到第 {frames} 个样点（文件头说有 {sound.frames} 个）时出错，文件可能损坏或被截断；"
                f"请重新导出或下载。底层的说法：{said(error)}"
            ) from error
        if block is None:
            break
        yield check_samples(block, path, frames)
        frames += len(block)
    if frames < sound.frames and not sound.note:
        lost = sound.frames - frames
        sound.note = (
            f"比文件头说的短：应有 {sound.frames} 个样点，只读到 {frames} 个，"
            f"少了 {lost / sound.samplerate:.2f} 秒；多半是录制或下载中断了，只处理了读得到的部分"
        )
    if sound.format == "FLAC" and sound.followed():
        raise AudioError(f"{path} {JOINED}")
    if sound.format == "FLAC" and (real := sound.real_end(frames)) > frames:
        raise AudioError(
            f"{path} 比文件头说的长：文件头说有 {frames} 个样点，里面真有的到第 {real} 个，"
            "多半是录音没有正常结束；请先整个转换，例如用 ffmpeg 转成 wav。"
        )
    if sound.format in {"FLAC", "MP3"} and len(left := sound.left_over()) > UNREAD:
        raise AudioError(
            f"{path} 比文件头说的长：读到第 {frames} 个样点就停了，后面至少还有 {len(left)} 字节；"
            "多半是几个文件直接首尾相接、录音没有正常结束，或 mp3 的码率是变的又没有写总长。"
            "请先整个转换，例如用 ffmpeg 转成 wav。"
        )


def read_audio(path) -> np.ndarray:
    """读声音文件，得到 16 kHz 单声道 float32 波形 (N,)，±1 为满幅。

    别的采样率用 soxr 转换，多声道取平均，16/24/32 位整数与浮点样点都归一。
    文件头说的长度与文件里真有的不合时，按真有的读，并用 ``warnings`` 说明。

    抛出:
        AudioError: 空文件、不是声音的文件、没有样点、含 NaN 或无穷大；它也是 ``ValueError``
    """
    with open_audio(path) as file:
        rate = file.samplerate
        blocks = [block.mean(axis=1) for block in read_blocks(file, path)]
        note = file.note
    if not blocks:
        raise AudioError(nothing(path, note))
    if note:
        warnings.warn(f"{path} {note}。", stacklevel=2)
    wave = resample(np.concatenate(blocks), rate)
    if len(wave) == 0:
        raise AudioError(f"{path} 太短，换成 {SAMPLE_RATE} Hz 后不足一个样点。")
    return np.ascontiguousarray(wave, dtype=np.float32)


def nothing(path, note: str) -> str:
    """没有样点时怎么说：截断得什么也不剩的，不是时长为 0。"""
    text = note.removesuffix("，只处理了读得到的部分") or "里一个样点也没有（时长为 0）"
    return f"{path} {text}；请换一个有声音的文件。"


def _writable(wave, path) -> np.ndarray:
    """要写进 ``path`` 的波形：(N,) 或 (N, 声道)，浮点或 16、32 位整数；别的抛 :class:`AudioError`。"""
    wave = np.asarray(wave)
    if wave.ndim not in (1, 2) or 0 in wave.shape[1:]:
        raise AudioError(f"写不成 {path}：波形应是 (N,) 或 (N, 声道)，实际形状是 {wave.shape}。")
    if wave.dtype == np.float16:
        wave = wave.astype(np.float32)
    if wave.dtype not in (np.float32, np.float64, np.int16, np.int32):
        raise AudioError(
            f"写不成 {path}：样点应是浮点（±1 为满幅）或 int16、int32，实际类型是 {wave.dtype}；请先转换。"
        )
    return check_samples(wave, path)


def write_audio(path, wave: np.ndarray, sample_rate: int = SAMPLE_RATE, subtype: str | None = None) -> None:
    """写声音文件；要么整个文件出现，要么旧文件原样不动。

    参数:
        path: 文件名，格式由扩展名定：.wav、.flac……
        wave: (N,) 或 (N, 声道)，浮点（±1 为满幅，超过的削到满幅）或 int16、int32
        sample_rate: 采样率，Hz，整数
        subtype: 编码；wav 与 flac 默认 16 位整数，wav 要原样保留可用 "FLOAT"
    抛出:
        AudioError: 扩展名、形状、类型、采样率写不成这种文件
        OSError: 没有权限、磁盘满了等
    """
    path = Path(path)
    suffix = path.suffix.lower()
    container = CONTAINERS.get(suffix, suffix[1:].upper())
    if container == "RAW" or container not in soundfile.available_formats():
        raise AudioError(f"不会写 {path}：不认识扩展名“{path.suffix}”；请用 .wav 或 .flac。")
    wave = _writable(wave, path)
    check_rate(sample_rate, path)
    if sample_rate != int(sample_rate):
        raise AudioError(f"{path} 的采样率要是整数，得到 {sample_rate} Hz；请先重采样。")
    kinds = soundfile.available_subtypes(container)
    if subtype is not None and subtype.upper() not in kinds:
        raise AudioError(f"{path.suffix} 不能用 {subtype} 编码，写不成 {path}；可选：{'、'.join(kinds)}。")
    channels = wave.shape[1] if wave.ndim == 2 else 1
    excess = too_much(container, sample_rate, channels)
    if excess:
        raise AudioError(f"{path.suffix} 存不下 {excess}，写不成 {path}；请改成 .wav。")
    with atomic_path(path) as temporary:
        code = subtype or SUBTYPES.get(suffix)
        try:
            sink = soundfile.SoundFile(
                c_path(temporary), "w", int(sample_rate), channels, code, format=container
            )
        except soundfile.LibsndfileError as error:
            if error.code == SYSTEM_ERROR:  # wav 一打开就写文件头
                raise OSError(f"{path} {DISK_FULL}") from error
            raise AudioError(
                f"写不成 {path}：采样率、声道数或编码这种格式放不下。底层的说法：{said(error)}"
            ) from error
        try:
            with sink:
                write_blocks(sink, wave)
        except (
            soundfile.LibsndfileError,
            AssertionError,
        ) as error:  # 磁盘写满时 soundfile 给的是 AssertionError
            raise OSError(f"{path} {DISK_FULL}") from error
