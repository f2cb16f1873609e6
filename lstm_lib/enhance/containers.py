"""声音文件的容器：文件头说的长度与文件里真有的对不对得上。

libsndfile 全信文件头：头里说短了，后面的声音悄悄不要；W64 又反过来，把声音后面的块也当声音念。这里在交给
它之前把块走一遍，对不上的换一个说真话的文件头。格式的出处：RIFF/WAVE 与 RF64（EBU Tech 3306）、AIFF-C、
Sony Wave64、Apple CAF、Sun AU、NIST SPHERE、Ogg（RFC 3533）、FLAC（RFC 9639）、MP3 的 Xing 头、ID3v2。
"""

import io
import re
import struct
from dataclasses import dataclass

WRAP = 1 << 32
# 写进管道、回不了头的程序填的 data 长度：sox 0x7ffff000（再按块取整）、arecord 0x80000000、ffmpeg 0xffffffff……
STREAMED = (range(0x7FFF0000, 0x80010000), range(0xFFFF0000, WRAP))
TAIL = 1 << 20  # 在文件末尾这么多字节里找声音后面的块
PCM_LIKE = {1, 3, 6, 7, 0xFFFE}  # 块对齐 × 采样率就是每秒字节数的 wav 编码
# 声音后面常见的块；长度写错了也认得出不是声音
KNOWN = (
    b"LIST,INFO,id3 ,ID3 ,bext,iXML,fact,cue ,smpl,inst,plst,PEAK,JUNK,junk,PAD ,FLLR,afsp,acid,strc,cart,"
    b"_PMX,axml,chna,levl,link,umid,dbmd,SyLp,Cr8r,DISP,minf,elm1,regn,DGDA,LGWV,ResU,note,labl,ltxt,MEXT,"
    b"COMM,FVER,NAME,AUTH,ANNO,(c) ,MARK,COMT,INST,MIDI,AESD,APPL,CHAN,SAXL,"
    b"info,strg,free,uuid,mark,midi,kuki,pakt,chan,ovvw,umid,edct,peak,list,levl,summ"
).split(b",")
W64_GUID = bytes.fromhex("2e91cf11a5d628db04c10000")  # “riff”之后的 12 字节
W64_REST = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # 别的块名之后的 12 字节


JOINED = (
    "里首尾接着不止一个声音文件（像是用 cat 直接拼的），只读得到第一个；"
    "请把它们分开，或用 sox、ffmpeg 之类重新连接。"
)


class ContainerError(ValueError):
    """容器本身有问题，读出来必定不全；消息接在文件名后面。"""


@dataclass(frozen=True)
class Layout:
    """一种容器的块：名字、长度、内容，首尾相接。"""

    name: int  # 名字几个字节
    code: str  # 长度的 struct 格式，含字节序
    align: int = 2
    inclusive: bool = False  # 长度是否连块头一起算

    @property
    def head(self) -> int:
        return self.name + struct.calcsize(self.code)

    def unpack(self, raw: bytes) -> tuple[bytes, int]:
        """块头 → （名字, 内容的字节数）。"""
        length = struct.unpack(self.code, raw[self.name : self.head])[0]
        return raw[: self.name], length - (self.head if self.inclusive else 0)

    def length_field(self, length: int) -> bytes:
        return struct.pack(self.code, length + (self.head if self.inclusive else 0))

    def plausible(self, name: bytes) -> bool:
        """像不像一个块名。"""
        if self.name == 16:
            return name[4:] in (W64_REST, W64_GUID)
        return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)


@dataclass(frozen=True)
class Finding:
    """查看的结果：``note`` 接在文件名后面给人看（空的就是没什么可说）；``stream`` 是换过文件头的文件或 None。"""

    note: str = ""
    stream: io.RawIOBase | None = None


@dataclass(frozen=True)
class Sound:
    """文件头里关于声音的一块：内容从 ``body`` 起，``declared`` 是头里说的字节数，None 是写的人也不知道。"""

    layout: Layout
    body: int
    declared: int | None
    lead: int = 0  # 内容里声音之前的字节数
    speed: float = 0  # 每秒字节数，0 是说不出
    align: int = 1
    fmt: bytes = b""
    before: tuple = ()  # 前面的块摆得 libsndfile 走不过去时，只留下这些（名字, 内容）


class Window(io.RawIOBase):
    """只读的拼接：先是 ``prefix``，再是 ``stream`` 的 [start, end)；给 libsndfile 当文件用。"""

    def __init__(self, prefix: bytes, stream, start: int, end: int):
        super().__init__()
        self._prefix, self._stream, self._start = prefix, stream, start
        self._size, self._position = len(prefix) + max(end - start, 0), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset, whence=io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer) -> int:
        view, split = memoryview(buffer).cast("B"), len(self._prefix)
        wanted = min(len(view), max(self._size - self._position, 0))
        chunk = self._prefix[self._position : self._position + wanted]
        if len(chunk) < wanted:
            self._stream.seek(self._start + max(self._position - split, 0))
            chunk += self._stream.read(wanted - len(chunk))
        view[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)


def examine(stream) -> Finding:
    """查看可以回头的二进制流 ``stream``；读不全的抛 :class:`ContainerError`，不认识的容器不作声。"""
    size = stream.seek(0, io.SEEK_END)

    def read(start: int, count: int) -> bytes:
        stream.seek(start)
        return stream.read(max(min(count, size - start), 0))

    head, tags = read(0, 40), _id3_tags(read)
    if tags and (is_start(read(tags, 40)) or read(tags, 4) in (b"fLaC", b"OggS")):  # 标签不算声音文件的一部分
        inner = Window(b"", stream, tags, size)
        found = examine(inner)
        return Finding(found.note, inner if found.stream is None else found.stream)
    for fits, look in (
        (is_start(head), is_start(head)),
        (head[:8] == b"NIST_1A\n", _nist),
        (head[:4] == b"OggS", _ogg),
        (head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"), _mp3),
    ):
        if fits:
            return look(stream, read, size)
    return Finding()


def is_start(head: bytes):
    """按开头的 40 字节认出记有长度的容器，给出查看它的函数；认不出是 None。"""
    for fits, look in (
        (head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE", _wave),
        (head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"), _aiff),
        (head[:16] == b"riff" + W64_GUID, _w64),
        (head[:6] == b"caff\0\1", _caf),
        (head[:4] in (b".snd", b"dns."), _au),
    ):
        if fits:
            return look
    return None


def _walk(read, size, layout, position):
    """从 ``position`` 起逐块给出（名字, 内容的位置, 长度）。"""
    while position + layout.head <= size:
        name, length = layout.unpack(read(position, layout.head))
        yield name, position + layout.head, length
        if length < 0:
            return
        position = _after(read, layout, position + layout.head + length)


def _after(read, layout, end):
    """下一块的位置：按规定补齐，但有的程序奇数长度不补。"""
    padded = -(-end // layout.align) * layout.align
    if padded != end and not layout.plausible(read(padded, layout.name)):
        return end if layout.plausible(read(end, layout.name)) else padded
    return padded


def _chain(read, size, layout, position):
    """``position`` 到文件末尾是不是恰好一串块；是就给出 [(名字, 长度)]，不是给 None。"""
    found = []
    for name, body, length in _walk(read, size, layout, position):
        if not layout.plausible(name) or length < 0 or body + length > size:
            return None
        found.append((name, length))
        position = _after(read, layout, body + length)
    rest = size - position
    return found if rest <= 0 or not any(read(position, rest)) else None


def _wave(stream, read, size):
    magic = read(0, 4)
    order = ">" if magic == b"RIFX" else "<"
    layout = Layout(4, order + "I")
    fmt = wide = sound = None
    skipped = crooked = False
    fact, following = b"", 12
    for name, body, length in _walk(read, size, layout, 12):
        # 奇数长度的块没有补齐，或 fmt 的长度是奇数：libsndfile 走不过去
        crooked = crooked or body - layout.head != following or (name == b"fmt " and length % 2 == 1)
        following = body + length + length % 2
        if name == b"fact":
            fact = read(body, min(length, 64))
        if name == b"ds64" and length >= 16:
            wide = struct.unpack("<QQ", read(body, 16).ljust(16, b"\0"))[1]
        elif name == b"fmt " and length >= 16:
            fmt = read(body, min(length, 4096))
        elif name == b"data":
            if length == 0 and any(n == b"data" and k for n, k in _chain(read, size, layout, body) or ()):
                skipped = True  # 占位的空块，真的在后面；libsndfile 见了两块就不读
                continue
            sound = body, length
            break
    if fmt is None or len(fmt) < 16 or sound is None:
        return Finding()
    tag, rate, per_second, align = _check_fmt(fmt, order)
    body, length = sound
    if magic in (b"RF64", b"BW64") and length == WRAP - 1 and wide is not None:
        declared = wide if wide < 1 << 62 else None
    else:
        declared = None if any(length in each for each in STREAMED) else length
    speed = rate * align if tag in PCM_LIKE and align else per_second
    before = ((b"fmt ", fmt[: len(fmt) // 2 * 2]), (b"fact", fact))[: 2 if fact else 1] if crooked else ()
    described = Sound(layout, body, declared, speed=speed, align=max(align, 1), fmt=fmt, before=before)
    wrapped = magic in (b"RIFF", b"RIFX")
    # 真有那么长的（不到 2 GB 或 4 GB 的上限）也可能恰好是那个数
    if declared is None and length < WRAP - 1 and body + length <= size:
        if _tail(read, size, described, body + length) == "" and not crooked:
            return Finding()
    return _settle(stream, read, size, described, wrapped, force=skipped or crooked or magic == b"BW64")


def _check_fmt(fmt, order):
    """wav 的 fmt 块 → （编码, 采样率, 每秒字节数, 块对齐）；坏得读不了的抛 :class:`ContainerError`。"""
    tag, channels, rate, per_second, align, bits = struct.unpack(order + "HHIIHH", fmt[:16])
    if rate == 0 or rate >= 1 << 31 or channels == 0:
        what = f"采样率写的是 {rate} Hz" if channels else "声道数写的是 0"
        raise ContainerError(f"的文件头坏了：{what}；请换一个文件，或用录音的程序重新导出。")
    if tag in (1, 0xFFFE) and 16 < bits <= 24 and align == 4 * channels and per_second == rate * align:
        raise ContainerError(
            f"的每个样点占 4 字节，文件头却说是 {bits} 位，看不出声音在其中的哪几个字节，读出来会是杂音；"
            "请用录音的程序重新导出，或转换成 24 位或 32 位的 wav。"
        )
    return tag, rate, per_second, align


def _aiff(stream, read, size):
    layout, speed, align = Layout(4, ">I"), 0, 1
    for name, body, length in _walk(read, size, layout, 12):
        if name == b"COMM" and length >= 18:
            channels, _, bits, exponent, mantissa = struct.unpack(">HIHHQ", read(body, 18).ljust(18, b"\0"))
            align = max(channels * -(-bits // 8), 1)
            speed = align * mantissa * 2.0 ** max(min(exponent - 16383 - 63, 0), -1074)
        elif name == b"SSND":
            # 大小写成 0x7f000000 一类的，是写进管道的
            declared = None if length >= 0x7F000000 else length
            return _settle(stream, read, size, Sound(layout, body, declared, 8, speed, align))
    return Finding()


def _w64(stream, read, size):
    layout, speed, align = Layout(16, "<Q", align=8, inclusive=True), 0, 1
    for name, body, length in _walk(read, size, layout, 40):
        if name[:4] == b"fmt " and length >= 16:
            _, _, _, speed, align, _ = struct.unpack("<HHIIHH", read(body, 16).ljust(16, b"\0"))
        elif name[:4] == b"data":
            declared = None if length >= 1 << 62 else max(length, 0)
            return _settle(
                stream, read, size, Sound(layout, body, declared, speed=speed, align=align), greedy=True
            )
    return Finding()


def _caf(stream, read, size):
    layout, speed, align = Layout(4, ">q", align=1), 0, 1
    for name, body, length in _walk(read, size, layout, 8):
        if name == b"desc" and length >= 32:
            rate, packet, frames = struct.unpack(">d8xII", read(body, 24).ljust(24, b"\0"))
            align = max(packet, 1)
            speed = rate * packet / frames if frames else 0
        elif name == b"data":
            declared = None if length == -1 or length >= 1 << 62 else max(length, 0)
            return _settle(stream, read, size, Sound(layout, body, declared, 4, speed, align))
    return Finding()


def _au(stream, read, size):
    order = ">" if read(0, 4) == b".snd" else "<"
    head = read(0, 24)
    if len(head) < 24:
        return Finding()
    body, length, encoding, rate, channels = struct.unpack(order + "5I", head[4:])
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding, 0)
    align = max(width * channels, 1)
    declared = None if any(length in each for each in STREAMED) else length
    sound = Sound(Layout(0, order + "I"), body, declared, speed=rate * width * channels, align=align)
    end, note = size if declared is None else body + declared, ""
    if end < size and is_start(read(end, 40)):
        raise ContainerError(JOINED)
    if end < size and (not declared or any(read(end, min(size - end, TAIL)))):
        end, note = size, _longer(sound, declared, size)
    elif end - size >= align:
        end, note = size, _shorter(sound, size)
    if end - body == length or size <= body:
        return Finding(note)
    prefix = read(0, body)
    prefix = prefix[:8] + struct.pack(order + "I", min(end - body, WRAP - 1)) + prefix[12:]
    return Finding(note, Window(prefix, stream, body, end))


def _settle(stream, read, size, sound, wrapped=False, greedy=False, force=False):
    """声音到底在哪里结束；与文件头不合、libsndfile 又读不对的，换一个文件头。

    ``wrapped``：长度只有 32 位，可能绕回；``greedy``：libsndfile 总是读到文件末尾；
    ``force``：它不认识这种文件头。
    """
    declared, note = sound.declared, ""
    end = size if declared is None else sound.body + declared
    if declared is None or end > size:
        end = _trailer(read, size, sound)
        if declared is not None and _frames(sound, declared) > _frames(sound, end - sound.body):
            note = _shorter(sound, end)
    else:
        kind = _tail(read, size, sound, end)
        if kind == "sound" and wrapped:
            turns = range(end + WRAP, size + 1, WRAP)
            real = next((turn for turn in turns if _tail(read, size, sound, turn) == ""), None)
            if real is not None:
                end, kind = real, ""
                note = (
                    "超过 4 GB，文件头里 32 位的长度记不下；"
                    f"已按文件实际的长度读，共 {_seconds(sound, end - sound.body)}"
                )
        if kind == "sound" or (kind == "zeros" and declared <= sound.lead):
            end = _trailer(read, size, sound)
            note = _longer(sound, declared, end)
        elif kind == "zeros":
            note = f"的声音后面还有 {size - end} 个全是零的字节，当作填充，没有读"
        elif kind == "data":
            raise ContainerError(
                "里有几个 data 块，合起来才是全部声音，这里读不了；"
                "请用录音的程序重新导出，或用 Audacity 之类打开后另存。"
            )
        elif kind == "another":
            raise ContainerError(JOINED)
    # 声音后面又一个空的 data 块：libsndfile 只认最后一块
    after = _chain(read, size, sound.layout, _after(read, sound.layout, end)) if end < size else None
    force = force or any(name == b"data" for name, _ in after or ())
    honest = end - sound.body == declared and not force and not (greedy and end != size)
    if honest or end - sound.body <= sound.lead:
        return Finding(note)
    return Finding(note, Window(_prefix(read, sound, end - sound.body), stream, sound.body, end))


def _prefix(read, sound, length):
    """长度改对了的文件头；wav 的 32 位放不下（或本来就是 64 位的）就写成 RF64。"""
    magic = read(0, 4)
    if magic in (b"RF64", b"BW64") or (magic == b"RIFF" and length + sound.body >= WRAP):
        fmt = sound.fmt + b"\0" * (len(sound.fmt) % 2)
        chunks = b"WAVE" + b"ds64" + struct.pack("<IQQQI", 28, length + len(fmt) + 60, length, 0, 0)
        chunks += b"fmt " + struct.pack("<I", len(sound.fmt)) + fmt + b"data\xff\xff\xff\xff"
        return b"RF64\xff\xff\xff\xff" + chunks
    field = sound.layout.length_field(length)
    if sound.before:
        chunks = b"".join(
            name + sound.layout.length_field(len(content)) + content + b"\0" * (len(content) % 2)
            for name, content in sound.before
        )
        whole = sound.layout.length_field(min(len(chunks) + 12 + length, WRAP - 1))
        return magic + whole + b"WAVE" + chunks + b"data" + field
    prefix = read(0, sound.body)
    if sound.fmt:  # 前面占位的空 data 块换个名字
        prefix = prefix[:-8].replace(b"data\0\0\0\0", b"JUNK\0\0\0\0") + prefix[-8:]
    return prefix[: -len(field)] + field


def _tail(read, size, sound, end):
    """``end`` 之后是什么：空串是没有声音（到头了，或是块与标签），另有 zeros、data、another、sound。"""
    layout, rest = sound.layout, size - end
    if rest <= 0:
        return ""
    for start in dict.fromkeys((_after(read, layout, end), end, end + 1)):
        kind = _kind(read, size, layout, start)
        if kind is not None:
            return kind
    if rest <= TAIL and not any(read(end, rest)):
        return "zeros" if rest >= layout.align else ""
    return "sound"


def _kind(read, size, layout, start):
    """从 ``start`` 起是块、标签（空串）、又一个 data 块、又一个文件，还是认不出（None）。"""
    head, chain = read(start, 12), _chain(read, size, layout, start)
    kind = None
    if is_start(read(start, 40)):
        kind = "another"
    elif chain:
        kind = "data" if any(name == b"data" and length for name, length in chain) else ""
    elif start >= size or head[:8] == b"APETAGEX" or head[:3] == b"ID3":
        kind = ""
    elif (head[:3] == b"TAG" and size - start in (128, 355)) or (head[:4] in KNOWN and layout.name == 4):
        kind = ""
    return kind


def _trailer(read, size, sound):
    """声音一直到文件末尾，只是末尾可能还有一串块或标签；给出声音结束的位置。"""
    begin = max(sound.body, size - TAIL)
    block = read(begin, size - begin)
    names = b"|".join(map(re.escape, KNOWN))
    for match in re.finditer(names, block):
        start = begin + match.start()
        if sound.layout.plausible(read(start, sound.layout.name)) and _chain(read, size, sound.layout, start):
            return start
    return size - 128 if block[-128:-125] == b"TAG" else size


def _frames(sound, count):
    """``count`` 个字节里有几个完整的样点（各声道合算一个）。"""
    return max(count - sound.lead, 0) // sound.align


def _seconds(sound, count):
    count = max(count - sound.lead, 0)
    return f"{count / sound.speed:.3f} 秒（{count} 字节）" if sound.speed else f"{count} 字节"


def _shorter(sound, end):
    real, said = end - sound.body, sound.declared
    lost = _seconds(sound, sound.lead + said - real)
    return (
        f"比文件头说的短：应有 {_seconds(sound, said)}，只有 {_seconds(sound, real)}，少了 {lost}；"
        "多半是录制或下载中断了，只处理了读得到的部分"
    )


def _longer(sound, declared, end):
    real = _seconds(sound, end - sound.body)
    if declared <= sound.lead:
        return f"的文件头没有写声音的长度（写的是 0），多半是录音没有正常结束；已读到文件末尾，共 {real}"
    return (
        f"比文件头说的长：文件头说有 {_seconds(sound, declared)}，多半是录音没有正常结束；"
        f"已读到文件末尾，共 {real}"
    )


def _nist(stream, read, size):
    """SPHERE（TIMIT 一类的语料）：libsndfile 不看 sample_count，总是读到文件末尾。"""
    start = read(8, 8).strip()
    if not start.isdigit():
        return Finding()
    fields = dict(re.findall(rb"^(\w+) -\w+ (\S+)", read(0, min(int(start), 1 << 16)), re.MULTILINE))
    names = (b"sample_count", b"channel_count", b"sample_n_bytes", b"sample_rate")
    count, channels, width, rate = (int(v) if (v := fields.get(n, b"")).isdigit() else 0 for n in names)
    plain = fields.get(b"sample_coding", b"pcm") in (b"pcm", b"ulaw", b"mu-law", b"alaw")  # 没有压缩
    if not (count and width and plain):
        return Finding()
    align = max(channels, 1) * width
    sound = Sound(Layout(0, "<I"), int(start), count * align, speed=rate * align, align=align)
    lost = count - _frames(sound, size - sound.body)
    return Finding(
        _shorter(sound, size) if lost > 0 else _longer(sound, sound.declared, size) if lost else ""
    )


def flac_end(stream, frames: int) -> int:
    """FLAC 里真有的样点数比 ``frames`` 多时，末尾几帧说的那个数；不比它多是 ``frames``。

    文件头的总数写少了，libsndfile 到数就停。帧自己记着位置（RFC 9639 第 9.1 节）；帧头、整帧的校验和都对才算。
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    fixed = int.from_bytes(stream.read(12)[8:10], "big")
    begin = max(size - TAIL, 42)
    stream.seek(begin)
    block = stream.read(size - begin)
    heads = [
        (m.start(), end)
        for m in re.finditer(b"\xff[\xf8\xf9]", block)
        if (end := _flac_frame(block, m.start(), fixed))
    ]
    tag = max(block.rfind(b"APETAGEX"), len(block) - 128 if block[-128:-125] == b"TAG" else -1)
    stops = [len(block), len(block.rstrip(b"\0")), *([tag] if tag >= 0 else [])]
    for k in range(len(heads) - 1, -1, -1):
        start, end = heads[k]
        nexts = [at for at, _ in heads[k + 1 : k + 3]] + stops
        if end > frames and any(at > start and not _crc(block[start:at], 0x8005, 16) for at in nexts):
            return end
    return frames


def _flac_frame(block, at, fixed) -> int:
    """``at`` 处若是一个 FLAC 帧头，给出这一帧之后的样点数；不是就是 0。"""
    head = block[at : at + 16].ljust(16, b"\0")
    size, rate, first = head[2] >> 4, head[2] & 15, head[4]
    more = 0 if first < 0x80 else 8 - (first ^ 0xFF).bit_length() - 1  # UTF-8 那样的变长整数
    if size == 0 or rate == 15 or head[3] & 1 or first == 0xFF or (first >= 0x80 and more < 1):
        return 0
    number = first & ((1 << (6 - more)) - 1 if more else 0x7F)
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    at = 5 + more
    if size in (6, 7):
        samples = int.from_bytes(head[at : at + size - 5], "big") + 1
        at += size - 5
    else:
        samples = 192 if size == 1 else 576 << (size - 2) if size < 6 else 256 << (size - 8)
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= 16 or _crc(head[: at + 1], 0x07, 8):
        return 0
    return (number if head[1] & 1 else number * fixed) + samples


def _crc(data, polynomial, bits) -> int:
    """从高位起的循环冗余校验，初值 0；数据后面接着自己的校验和时是 0。"""
    value, top, mask = 0, 1 << (bits - 1), (1 << bits) - 1
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & mask
    return value


def _ogg(stream, read, size):
    """一页一页走到末尾：后面又开始一个流就是接起来的，没有结束标志就是不完整。"""
    position, started, flags = 0, False, 0
    while (page := read(position, 27 + 255))[:4] == b"OggS" and len(page) >= 27:
        flags = page[5]
        if started and flags & 2:
            raise ContainerError(JOINED)
        started = started or not flags & 2
        position += 27 + page[26] + sum(page[27 : 27 + page[26]])
    if position > size or not flags & 4:
        return Finding("的结尾不完整（没有结束标志），多半是录制或下载中断了，只处理了读得到的部分")
    return Finding()


def _id3_tags(read) -> int:
    """开头的 ID3v2 标签一共占多少字节。"""
    start = 0
    while (tag := read(start, 10))[:3] == b"ID3" and len(tag) == 10:
        start += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    return start


def _mp3(stream, read, size):
    """Xing 头说的字节数之后还有 mp3 帧，就是几个文件接起来的：libsndfile 只读第一个。"""
    start = _id3_tags(read)
    frame = read(start, 256)
    where = max(frame.find(b"Xing"), frame.find(b"Info"))
    if where < 0:
        return Finding()
    flags = int.from_bytes(frame[where + 4 : where + 8], "big")
    field = where + 8 + (4 if flags & 1 else 0)
    said = int.from_bytes(frame[field : field + 4], "big") if flags & 2 else 0
    after = read(start + said, 3)
    if said and (after == b"ID3" or (after[:1] == b"\xff" and after[1:2] >= b"\xe0")):
        if size - start - said > 2048:
            raise ContainerError(JOINED)
    return Finding()
