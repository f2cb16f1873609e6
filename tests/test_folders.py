"""找文件、认数据集、划分：在各公开数据集同样形状的小树上；再查磁盘上的文件表与检查点文件。"""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lstm_lib.training import checkpoint, folders, known, sources
from lstm_lib.training.dataset import Corpus, FileTable
from lstm_lib.training.folders import DataError


def tone(path, seconds=0.2, rate=16000, channels=1, seed=0):
    """写一个很短的声音文件；格式由扩展名定。"""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    # 给字节：名字不一定是 UTF-8
    soundfile.write(os.fsencode(path), rng.normal(0, 0.1, (int(seconds * rate), channels)).squeeze(), rate)
    return path


def tree(root, names, first_seed=0):
    """几个各不相同的文件；不同的角色给不同的 ``first_seed``，否则就成了同样的声音。"""
    for number, name in enumerate(names, first_seed):
        tone(Path(root) / name, seed=number)
    return Path(root)


def speech_tree(root):
    return tree(root, [f"spk{s}/u{u}.wav" for s in range(4) for u in range(2)], first_seed=2000)


def noise_tree(root):
    return tree(root, [f"n{i}.wav" for i in range(4)], first_seed=1000)


def all_paths(corpus, name):
    table = getattr(corpus, name)
    return {table.path(i) for i in range(len(table))}


def speakers_of(table_paths, depth=-2):
    return {Path(p).parts[depth] for p in table_paths}


# ---- 找文件 ----


def test_recursive_and_every_format(tmp_path):
    names = ["a.wav", "b/c.WAV", "b/d/e.flac", "b/d/f.OGG", "中文 目录/语音 1.wav"]
    tree(tmp_path, names)
    (tmp_path / "readme.txt").write_text("不是声音")
    (tmp_path / "._a.wav").write_bytes(b"mac")
    paths, bad = folders.find_audio([tmp_path])
    assert {os.path.relpath(p, tmp_path) for p in paths} == set(names)
    assert not bad


def test_symlinks_followed_and_loops_end(tmp_path):
    tone(tmp_path / "elsewhere" / "x.wav")
    root = tmp_path / "root"
    tone(root / "a.wav")
    (root / "sub").mkdir()
    (root / "sub" / "up").symlink_to(root)  # 成圈
    (root / "self").symlink_to(root / "self")  # 指向自己
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again.wav").symlink_to(root / "a.wav")  # 同一个文件的第二个名字
    (root / "broken.wav").symlink_to(root / "nothing.wav")
    paths, bad = folders.find_audio([root])
    assert sorted(os.path.basename(p) for p in paths) == ["a.wav", "x.wav"]
    assert [os.path.basename(b.path) for b in bad] == ["broken.wav"]
    assert "链接断了" in bad[0].reason


def test_order_does_not_depend_on_the_file_system(tmp_path):
    tree(tmp_path, ["z.wav", "a.wav", "m/b.wav"])
    first = folders.find_audio([tmp_path])[0]
    assert first == folders.find_audio([tmp_path])[0]
    assert [os.path.relpath(p, tmp_path) for p in first] == ["a.wav", "z.wav", "m/b.wav"]


def test_scan_reports_unreadable_files(tmp_path):
    tone(tmp_path / "good.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.flac").write_text("假的")
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), 16000)
    good, bad = folders.scan([tmp_path])
    assert [os.path.basename(f.path) for f in good] == ["good.wav"]
    assert {os.path.basename(b.path) for b in bad} == {"empty.wav", "text.flac", "zero.wav"}
    assert all(b.reason for b in bad)
    folders.check_bad(bad, len(good), 0.75, "语音")
    with pytest.raises(DataError, match=r"4 个文件有 3 个不能用（75.0%.*--max-bad"):
        folders.check_bad(bad, len(good), 0.5, "语音")


def test_pipes_are_named_and_untrue_headers_are_reported(tmp_path):
    speech, noise = speech_tree(tmp_path / "s"), noise_tree(tmp_path / "n")
    odd = speech / "spk0" / "u0.wav"
    content = bytearray(odd.read_bytes())
    content[40:44] = bytes(4)
    odd.write_bytes(content)
    os.mkfifo(noise / "pipe.wav")
    good, bad = folders.scan([noise])
    assert len(good) == 4 and "管道" in bad[0].reason
    (noise / "pipe.wav").unlink()
    gathered = gather(speech=[speech], noise=[noise])
    assert sum("u0.wav" in line and "没有写声音的长度" in line for line in gathered.report) == 1
    files = folders.scan([speech])[0]
    assert {f.frames for f in files} == {3200}


def test_missing_and_empty_folders_say_so(tmp_path):
    with pytest.raises(DataError, match="找不到文件夹"):
        folders.find_audio([tmp_path / "没有"])
    with pytest.raises(DataError, match="不是文件夹"):
        folders.find_audio([tone(tmp_path / "a.wav")])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.m4a").write_bytes(b"x")
    good, bad = folders.scan([tmp_path / "empty"])
    with pytest.raises(DataError, match="一个 wav、flac、ogg 或 mp3 文件也没有"):
        folders.check_bad(bad, len(good), 0.5, "语音")


# ---- 认布局 ----

TREES = {
    "VoiceBank-DEMAND": [
        f"{kind}_{part}/{name}"
        for kind in ("clean", "noisy")
        for part, names in (
            ("trainset_28spk_wav", ["p226_001.wav", "p226_002.wav", "p287_001.wav", "p250_001.wav"]),
            ("testset_wav", ["p232_001.wav"]),
        )
        for name in names
    ],
    "DNS Challenge": [
        "datasets_fullband/clean_fullband/read_speech/book_00000_chp_0009_reader_06709_0_seg_1.wav",
        "datasets_fullband/clean_fullband/read_speech/book_00000_chp_0009_reader_06709_1_seg_1.wav",
        "datasets_fullband/clean_fullband/read_speech/book_00001_chp_0002_reader_11980_0_seg_0.wav",
        "datasets_fullband/clean_fullband/vctk_wav48_silence_trimmed/p225/p225_001_mic1.wav",
        "datasets_fullband/clean_fullband/emotional_speech/crema_d/1001_DFA_ANG_XX.wav",
        "datasets_fullband/noise_fullband/-0BIyqJj9ZU.wav",
        "datasets_fullband/noise_fullband/door_Freesound_validated_377274_0.wav",
        "datasets_fullband/dev_testset_fullband/synthetic/clean_fileid_0.wav",
        "datasets_fullband/impulse_responses/SLR28/rir_0.wav",
    ],
    "THCHS-30": [
        f"data_thchs30/data/{name}"
        for name in ("A11_0.wav", "A11_1.wav", "B12_250.wav", "C4_500.wav", "D4_750.wav")
    ],
    "AISHELL-1": [
        "data_aishell/wav/train/S0002/BAC009S0002W0122.wav",
        "data_aishell/wav/train/S0002/BAC009S0002W0123.wav",
        "data_aishell/wav/train/S0003/BAC009S0003W0121.wav",
        "data_aishell/wav/dev/S0724/BAC009S0724W0121.wav",
        "data_aishell/wav/test/S0764/BAC009S0764W0121.wav",
    ],
    "MUSAN": [
        "musan/noise/free-sound/noise-free-sound-0000.wav",
        "musan/noise/sound-bible/noise-sound-bible-0000.wav",
        "musan/music/fma/music-fma-0000.wav",
        "musan/speech/librivox/speech-librivox-0000.wav",
    ],
    "ESC-50": [
        "ESC-50-master/audio/1-100032-A-0.wav",
        "ESC-50-master/audio/1-17092-A-27.wav",
        "ESC-50-master/audio/1-17092-B-27.wav",
        "ESC-50-master/audio/5-9032-A-0.wav",
    ],
    "DEMAND": [
        "demand/DKITCHEN/ch01.wav",
        "demand/DKITCHEN/ch02.wav",
        "demand/NPARK/ch01.wav",
        "demand/NPARK/ch02.wav",
    ],
}


def public_tree(root, name):
    tree(root, TREES[name])
    if name == "THCHS-30":
        base = root / "data_thchs30"
        for part, files in (
            ("train", ["A11_0", "A11_1", "B12_250"]),
            ("dev", ["C4_500"]),
            ("test", ["D4_750"]),
        ):
            (base / part).mkdir()
            for file in files:
                (base / part / f"{file}.wav").symlink_to(f"../data/{file}.wav")
    if name == "ESC-50":
        (root / "ESC-50-master" / "meta").mkdir()
        (root / "ESC-50-master" / "meta" / "esc50.csv").write_text("filename,fold,target,category\n")
    return root


@pytest.mark.parametrize("name", TREES)
def test_layout_is_recognised_from_above(tmp_path, name):
    public_tree(tmp_path, name)
    found = known.recognise(tmp_path)
    assert [f.layout.name for f in found] == [name]


def gather(**kwargs):
    return sources.gather(sources.Sources(**kwargs))


def test_voicebank_splits_by_speaker_and_leaves_the_test_set(tmp_path):
    gathered = gather(data=[public_tree(tmp_path, "VoiceBank-DEMAND")])
    train, valid = all_paths(gathered.train, "clean"), all_paths(gathered.valid, "clean")
    assert len(train | valid) == 4
    assert not any("testset" in p for p in train | valid)
    speaker = {Path(p).name.split("_")[0] for p in train}, {Path(p).name.split("_")[0] for p in valid}
    assert not speaker[0] & speaker[1], f"说话人 {speaker[0] & speaker[1]} 两边都有"
    for corpus in (gathered.train, gathered.valid):
        for i in range(len(corpus.clean)):
            assert Path(corpus.clean.path(i)).name == Path(corpus.noisy.path(i)).name


def test_voicebank_test_set_for_evaluation(tmp_path):
    found = known.recognise(public_tree(tmp_path, "VoiceBank-DEMAND"))[0]
    assert [(c.name, n.name) for c, n in found.pairs("test")] == [("clean_testset_wav", "noisy_testset_wav")]


def test_dns_takes_speech_and_noise(tmp_path):
    gathered = gather(data=[public_tree(tmp_path, "DNS Challenge")])
    speech = all_paths(gathered.train, "speech") | all_paths(gathered.valid, "speech")
    noise = all_paths(gathered.train, "noise") | all_paths(gathered.valid, "noise")
    assert len(speech) == 5
    assert len(noise) == 2
    assert not any("dev_testset" in p or "impulse" in p for p in speech | noise)


def test_dns_reader_is_one_speaker(tmp_path):
    public_tree(tmp_path, "DNS Challenge")
    good, _ = folders.scan([tmp_path / "datasets_fullband" / "clean_fullband"])
    groups = {Path(f.path).name: f.group for f in good}
    assert len(set(groups.values())) == 4
    readers = [g for n, g in groups.items() if "06709" in n]
    assert len(readers) == 2 and len(set(readers)) == 1


@pytest.mark.parametrize("part", [".", "data_thchs30", "data_thchs30/data", "data_thchs30/train"])
def test_thchs30_test_speakers_are_never_touched(tmp_path, part):
    root = public_tree(tmp_path / "t", "THCHS-30")
    gathered = gather(speech=[root / part], noise=[noise_tree(tmp_path / "n")])
    names = {Path(p).name for c in (gathered.train, gathered.valid) for p in all_paths(c, "speech")}
    expected = {"A11_0.wav", "A11_1.wav", "B12_250.wav"} | (
        set() if part.endswith("train") else {"C4_500.wav"}
    )
    assert names == expected, "test 里的 D4 混进来了，或漏了文件"


@pytest.mark.parametrize("part", [".", "data_aishell", "data_aishell/wav", "data_aishell/wav/train"])
def test_aishell_by_speaker(tmp_path, part):
    root = public_tree(tmp_path / "a", "AISHELL-1")
    gathered = gather(speech=[root / part], noise=[noise_tree(tmp_path / "n")])
    train, valid = (speakers_of(all_paths(c, "speech")) for c in (gathered.train, gathered.valid))
    assert train and valid and not train & valid
    assert "S0764" not in train | valid


def test_musan_as_noise_leaves_speech_out(tmp_path):
    gathered = gather(speech=[speech_tree(tmp_path / "s")], noise=[public_tree(tmp_path / "m", "MUSAN")])
    noise = all_paths(gathered.train, "noise") | all_paths(gathered.valid, "noise")
    assert len(noise) == 3
    assert not any("librivox" in p for p in noise)


def test_esc50_keeps_one_recording_together(tmp_path):
    public_tree(tmp_path, "ESC-50")
    good, _ = folders.scan([tmp_path / "ESC-50-master"], by_folder=False)
    groups = {Path(f.path).name: f.group for f in good}
    assert groups["1-17092-A-27.wav"] == groups["1-17092-B-27.wav"]
    assert len(set(groups.values())) == 3


def test_demand_keeps_one_place_together(tmp_path):
    gathered = gather(speech=[speech_tree(tmp_path / "s")], noise=[public_tree(tmp_path / "d", "DEMAND")])
    places = [speakers_of(all_paths(c, "noise")) for c in (gathered.train, gathered.valid)]
    assert sorted(map(len, places)) == [1, 1] and places[0] != places[1]


def test_unknown_data_root_lists_what_is_known(tmp_path):
    with pytest.raises(DataError, match="VoiceBank-DEMAND、DNS Challenge"):
        gather(data=[speech_tree(tmp_path)])


# ---- 分组与划分 ----


def test_a_folder_each_is_a_speaker_each(tmp_path):
    gathered = gather(speech=[speech_tree(tmp_path / "s")], noise=[noise_tree(tmp_path / "n")])
    train, valid = (speakers_of(all_paths(c, "speech")) for c in (gathered.train, gathered.valid))
    assert len(train) == 3 and len(valid) == 1 and not train & valid
    assert not all_paths(gathered.train, "noise") & all_paths(gathered.valid, "noise")
    assert all_paths(gathered.valid, "noise")


def test_deep_folders_group_by_the_first_level(tmp_path):
    tree(tmp_path, [f"wav/spk{s}/day{d}/u.wav" for s in range(3) for d in range(3)])
    good, _ = folders.scan([tmp_path])
    assert len({f.group for f in good}) == 3, "同一人的不同日子被当成了不同的人"


def test_speaker_regex(tmp_path):
    tree(tmp_path, ["rec_anna_1.wav", "rec_anna_2.wav", "rec_bob_1.wav"])
    good, _ = folders.scan([tmp_path], r"rec_([a-z]+)_")
    assert [f.group for f in good] == ["anna", "anna", "bob"]
    for pattern, message in ((r"rec_(", "写错了"), (r"rec_", "括号"), (r"x(\d)", "找不到说话人")):
        with pytest.raises(DataError, match=message):
            folders.scan([tmp_path], pattern)


def test_flat_unknown_names_warn(tmp_path):
    speech = tree(tmp_path / "s", ["a.wav", "b.wav", "c.wav"])
    gathered = gather(speech=[speech], noise=[noise_tree(tmp_path / "n")])
    assert any("认不出" in line for line in gathered.report)


def test_split_share_and_stability():
    durations = {f"spk{i}": 60.0 for i in range(100)}
    chosen = folders.split_groups(durations, 0.1, seed=3)
    assert len(chosen) == 10
    assert chosen == folders.split_groups(dict(reversed(durations.items())), 0.1, seed=3), "结果随次序变了"
    assert chosen != folders.split_groups(durations, 0.1, seed=4)
    here, there = ({f"{root}/{name}": v for name, v in durations.items()} for root in ("/a", "/b/深处"))
    moved = {name.rpartition("/")[2] for name in folders.split_groups(here, 0.1, seed=3)}
    again = {name.rpartition("/")[2] for name in folders.split_groups(there, 0.1, seed=3)}
    assert moved == again, "整个文件夹搬了家，划分却变了"
    more = folders.split_groups(durations | {"new": 60.0}, 0.1, seed=3, keep=chosen)
    assert chosen <= more, "加了新人，旧的验证者被挪进了训练"


def test_split_prefers_not_to_take_a_giant():
    durations = {"giant": 1000.0} | {f"s{i}": 10.0 for i in range(20)}
    for seed in range(10):
        chosen = folders.split_groups(durations, 0.1, seed)
        assert "giant" not in chosen
        assert chosen


def test_split_never_takes_everything():
    assert len(folders.split_groups({"a": 1.0, "b": 1.0}, 0.99)) == 1
    with pytest.raises(DataError, match="只有一组"):
        folders.split_groups({"a": 1.0}, 0.1)


def test_previous_split_is_kept(tmp_path):
    args = dict(speech=[speech_tree(tmp_path / "s")], noise=[noise_tree(tmp_path / "n")])
    first = gather(**args)
    tree(tmp_path / "s", [f"new{i}/u.wav" for i in range(20)])
    again = sources.gather(sources.Sources(**args), first.held)
    assert all_paths(first.valid, "speech") <= all_paths(again.valid, "speech")


def sides(gathered):
    return tuple(speakers_of(all_paths(c, "speech")) for c in (gathered.train, gathered.valid))


def test_absent_groups_come_back_to_their_side(tmp_path):
    """验证者暂时不在：不拿训练过的人补位，回来时仍在验证里。"""
    speech = tree(tmp_path / "s", [f"spk{s}/u.wav" for s in range(8)])
    args = sources.Sources(speech=[speech], noise=[noise_tree(tmp_path / "n")], valid_share=0.25)
    first = sources.gather(args)
    train, valid = sides(first)
    assert len(valid) == 2
    away = sorted(valid)[0]
    (speech / away).rename(tmp_path / away)
    without = sources.gather(args, first.held)
    assert sides(without) == (train, valid - {away})
    (tmp_path / away).rename(speech / away)
    assert sides(sources.gather(args, without.held)) == (train, valid)
    back = sources.gather(args, without.held)
    moved = sorted(train)[0]
    (speech / moved).rename(tmp_path / moved)
    without = sources.gather(args, back.held)
    (tmp_path / moved).rename(speech / moved)
    assert sides(sources.gather(args, without.held)) == (train, valid)


@pytest.mark.parametrize("seed", range(4))
def test_new_groups_never_push_trained_ones_into_validation(tmp_path, seed):
    speech = tree(tmp_path / "s", [f"spk{s}/u.wav" for s in range(8)])
    args = sources.Sources(speech=[speech], noise=[noise_tree(tmp_path / "n")], valid_share=0.25, seed=seed)
    first = sources.gather(args)
    train, valid = sides(first)
    tree(speech, [f"new{s}/u.wav" for s in range(8)])
    more_train, more_valid = sides(sources.gather(args, first.held))
    assert train <= more_train and valid <= more_valid
    assert len(more_valid) >= 4, "新人里也该有验证者，凑够份额"


@pytest.mark.parametrize("side", ["训练", "验证"])
def test_side_with_nobody_left_is_refused(tmp_path, side):
    speech = tree(tmp_path / "s", [f"spk{s}/u.wav" for s in range(4)])
    args = sources.Sources(speech=[speech], noise=[noise_tree(tmp_path / "n")], valid_share=0.5)
    first = sources.gather(args)
    for name in sides(first)[side == "验证"]:
        (speech / name).rename(tmp_path / name)
    with pytest.raises(DataError, match=f"上次定下的{side}组一个也不在了"):
        sources.gather(args, first.held)


def test_groups_trained_under_a_fixed_validation_set_stay_trained(tmp_path):
    """给过 --valid 的一次训练用遍了各组；下次不给，也不许拿它们验证。"""
    root = public_tree(tmp_path / "v", "VoiceBank-DEMAND")
    args = dict(speech=[speech_tree(tmp_path / "s")], noise=[noise_tree(tmp_path / "n")])
    fixed = sources.Sources(**args, valid=(root / "clean_testset_wav", root / "noisy_testset_wav"))
    held = sources.gather(fixed, gather(**args).held).held
    with pytest.raises(DataError, match="上次定下的验证组一个也不在了"):
        sources.gather(sources.Sources(**args), held)


def test_old_record_has_validation_groups_only(tmp_path):
    args = dict(speech=[speech_tree(tmp_path / "s")], noise=[noise_tree(tmp_path / "n")])
    first = gather(**args)
    sources.save_held(tmp_path / "held.json", first.held["valid"])
    tree(tmp_path / "s", [f"new{i}/u.wav" for i in range(20)])
    again = sources.gather(sources.Sources(**args), sources.load_held(tmp_path / "held.json"))
    assert sides(again)[1] == sides(first)[1], "分不清新旧时，不该再取"
    sources.save_held(tmp_path / "held.json", again.held)
    assert sources.load_held(tmp_path / "held.json") == again.held


# ---- 配对 ----


def test_pairs_by_relative_path_and_by_fileid(tmp_path):
    tree(tmp_path / "c", ["s1/a.wav", "s2/a.flac", "s3/x.wav"])
    tree(tmp_path / "n", ["s1/a.flac", "s2/a.wav", "s3/y.wav"])
    clean, noisy = (folders.scan([tmp_path / k])[0] for k in "cn")
    pairs, bad = folders.pair(clean, noisy, tmp_path / "c", tmp_path / "n")
    assert len(pairs) == 2
    assert {Path(b.path).name for b in bad} == {"x.wav", "y.wav"}
    tree(tmp_path / "dc", ["clean_fileid_1.wav", "clean_fileid_12.wav"])
    tree(tmp_path / "dn", ["book_7_snr5_fileid_12.wav", "book_3_snr0_fileid_1.wav"])
    clean, noisy = (folders.scan([tmp_path / k])[0] for k in ("dc", "dn"))
    pairs, bad = folders.pair(clean, noisy, tmp_path / "dc", tmp_path / "dn")
    assert not bad
    assert [p.noisy.path.rsplit("_", 1)[1] for p in pairs] == ["1.wav", "12.wav"]


def test_pairs_of_different_length_are_refused(tmp_path):
    tone(tmp_path / "c" / "a.wav", 0.5)
    tone(tmp_path / "n" / "a.wav", 0.6)
    clean, noisy = (folders.scan([tmp_path / k])[0] for k in "cn")
    pairs, bad = folders.pair(clean, noisy, tmp_path / "c", tmp_path / "n")
    assert not pairs
    assert "长短不同" in bad[0].reason


def test_valid_folder_must_not_overlap(tmp_path):
    root = public_tree(tmp_path, "VoiceBank-DEMAND")
    train = (root / "clean_trainset_28spk_wav", root / "noisy_trainset_28spk_wav")
    with pytest.raises(DataError, match="既在训练里又在 --valid 里"):
        gather(paired=[train], valid=train)
    fixed = gather(paired=[train], valid=(root / "clean_testset_wav", root / "noisy_testset_wav"))
    assert len(fixed.valid.clean) == 1 and len(fixed.train.clean) == 4


def test_speech_without_noise_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="还缺 --noise"):
        gather(speech=[speech_tree(tmp_path)])
    with pytest.raises(DataError, match="没有给训练数据"):
        gather()


def test_index_round_trip(tmp_path):
    gathered = gather(speech=[speech_tree(tmp_path / "语音")], noise=[noise_tree(tmp_path / "n")])
    sources.save_index(tmp_path / "index.npz", gathered)
    train, valid = sources.load_index(tmp_path / "index.npz")
    assert all_paths(train, "speech") == all_paths(gathered.train, "speech")
    assert all_paths(valid, "noise") == all_paths(gathered.valid, "noise")
    assert len(train.clean) == 0


def test_file_names_that_are_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path / "s")
    os.mkdir(folder)
    try:
        os.mkdir(os.path.join(folder, b"\xd6\xd0"))  # GBK 的“中”
    except OSError:
        pytest.skip("这个文件系统只收 UTF-8 的名字")
    os.rename(tone(tmp_path / "x.wav"), os.path.join(folder, b"\xd6\xd0", b"\xce\xc4.wav"))
    tone(tmp_path / "s" / "other" / "y.wav")
    gathered = gather(speech=[tmp_path / "s"], noise=[noise_tree(tmp_path / "n")])
    sources.save_held(tmp_path / "held.json", gathered.held)
    assert sources.load_held(tmp_path / "held.json") == gathered.held
    both = [
        *gathered.train.speech.names.tobytes().split(b"/"),
        *gathered.valid.speech.names.tobytes().split(b"/"),
    ]
    assert b"\xce\xc4.wav" in both


# ---- 人们手里真实的名字 ----

NFC, NFD = "caf\u00e9", "cafe\u0301"


def paired(root, clean, noisy):
    """clean、noisy 两个文件夹里各有这些文件；返回（配成的两边的名字, 不能用的）。"""
    tree(root / "clean", clean)
    tree(root / "noisy", noisy, first_seed=100)
    bad = []
    data = sources.Sources(max_bad=1.0)
    pairs = sources.scan_pairs(root / "clean", root / "noisy", data, bad)
    return [(os.path.basename(p.clean.path), os.path.basename(p.noisy.path)) for p in pairs], bad


def test_unicode_twins_are_one_name(tmp_path):
    """macOS 上解开的文件夹里，é 是两个字符。"""
    pairs, bad = paired(tmp_path, [f"{NFC}.wav", "b.wav"], [f"{NFD}.wav", "b.wav"])
    assert set(pairs) == {(f"{NFC}.wav", f"{NFD}.wav"), ("b.wav", "b.wav")} and not bad
    (tmp_path / NFD).mkdir()
    tone(tmp_path / NFD / "a.wav")
    assert folders.find_audio([tmp_path / NFC])[0] == [str(tmp_path / NFD / "a.wav")]


@pytest.mark.parametrize(
    ("clean", "noisy", "why"),
    [
        (["a.wav", "a.flac", "b.wav"], ["a.wav", "b.wav"], "只差扩展名"),
        ([f"{NFC}.wav", f"{NFD}.wav", "b.wav"], [f"{NFC}.wav", "b.wav"], "只差 Unicode 写法"),
        (["b.wav", "a.wav"], ["b.wav", "a.flac", "a.ogg"], "只差扩展名"),
        (["b.wav", "x.wav"], ["b.wav", "X.WAV", "X.wav"], "只差"),
    ],
)
def test_two_files_of_one_name_are_both_named(tmp_path, clean, noisy, why):
    pairs, bad = paired(tmp_path, clean, noisy)
    assert pairs == [("b.wav", "b.wav")], "分不清的不许配"
    assert {os.path.basename(b.path) for b in bad} == {*clean, *noisy} - {"b.wav"}
    several = clean if len(clean) > 2 else noisy
    first, second = (name for name in several if name != "b.wav")
    reason = next(b.reason for b in bad if os.path.basename(b.path) == first)
    assert why in reason and second in reason and "只留一个" in reason


def test_same_full_names_on_both_sides_are_no_riddle(tmp_path):
    names = ["a.wav", "a.flac", "A.wav"]
    pairs, bad = paired(tmp_path, names, names)
    assert sorted(pairs) == sorted((n, n) for n in names) and not bad


def test_case_and_garbled_names_still_find_their_partner(tmp_path):
    garbled = "句子".encode("gbk").decode("latin-1")
    raw = os.fsdecode("文字".encode("gbk"))
    pairs, bad = paired(
        tmp_path, ["A.WAV", "句子.wav", "文字.wav"], ["a.wav", f"{garbled}.wav", f"{raw}.wav"]
    )
    assert not bad
    assert set(pairs) == {("A.WAV", "a.wav"), ("句子.wav", f"{garbled}.wav"), ("文字.wav", f"{raw}.wav")}


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("Über", "latin-1"), ("é", "latin-1"), ("語音檔", "big5"), ("こえ", "shift_jis"), ("句子", "gbk")],
)
def test_names_in_other_encodings_find_their_partner(tmp_path, name, encoding):
    raw = os.fsdecode(name.encode(encoding))
    pairs, bad = paired(tmp_path, [f"{name}.wav", "b.wav"], [f"{raw}.wav", "b.wav"])
    assert set(pairs) == {(f"{name}.wav", f"{raw}.wav"), ("b.wav", "b.wav")} and not bad
    (tmp_path / raw).mkdir()
    how = {"latin-1": "Latin-1", "big5": "Big5", "shift_jis": "Shift-JIS", "gbk": "GBK"}[encoding]
    with pytest.raises(DataError, match=f"按 {how} 读正是它"):
        folders.existing_folder(tmp_path / name)


def test_a_folder_doubled_by_unpacking_is_seen_through(tmp_path):
    pairs, bad = paired(tmp_path, ["clean/s1/a.wav", "clean/s2/b.wav"], ["s1/a.wav", "s2/b.wav"])
    assert pairs == [("a.wav", "a.wav"), ("b.wav", "b.wav")] and not bad
    tree(tmp_path / "set" / "set" / "clean", ["a.wav"])
    tree(tmp_path / "set" / "set" / "noisy", ["a.wav"], first_seed=9)
    with pytest.raises(DataError) as caught:
        folders.existing_folder(tmp_path / "set" / "clean")
    assert f"在里面一层：{tmp_path / 'set' / 'set' / 'clean'}" in str(caught.value)
    assert sources.valid_pair([tmp_path / "set"])[0] == tmp_path / "set" / "set" / "clean"


def test_partner_in_another_subfolder_or_broken_is_the_stated_reason(tmp_path):
    tree(tmp_path / "clean", ["one/a.wav", "b.wav"])
    (tmp_path / "clean" / "c.wav").write_text("坏的")
    tree(tmp_path / "noisy", ["two/a.wav", "b.wav", "c.wav"], first_seed=100)
    bad = []
    sources.scan_pairs(tmp_path / "clean", tmp_path / "noisy", sources.Sources(max_bad=1.0), bad)
    reasons = {os.path.relpath(b.path, tmp_path): b.reason for b in bad}
    assert reasons["noisy/c.wav"] == f"它的搭档 {tmp_path / 'clean' / 'c.wav'} 不能用"
    assert str(tmp_path / "noisy/two/a.wav") in reasons["clean/one/a.wav"]


def test_missing_folder_says_why(tmp_path):
    (tmp_path / "Clean").mkdir()
    (tmp_path / os.fsdecode("语音".encode("gbk"))).mkdir()
    (tmp_path / "噪声".encode("gbk").decode("latin-1")).mkdir()
    tone(tmp_path / "noisy\\a.wav")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "data.zip").write_bytes(b"PK")
    for name, words in (
        ("clean", "有的是 Clean，大小写不同"),
        ("语音", "按 GBK 读正是它"),
        ("噪声", "按 GBK 读正是它"),
        ("noisy", "1 个文件的名字带反斜杠"),
        ("gone", "断了的链接"),
        ("data.zip", "是压缩包"),
        ("什么/没有", "里没有 什么"),
    ):
        with pytest.raises(DataError) as caught:
            folders.existing_folder(tmp_path / name)
        assert words in str(caught.value), name


def test_leftovers_of_other_systems_are_not_sound(tmp_path):
    noise, tmp_path = noise_tree(tmp_path / "n"), tmp_path / "s"
    tone(tmp_path / "A.WAV")
    for name in ("._A.WAV", "__MACOSX\\._A.wav", "Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    paths, bad = folders.find_audio([tmp_path])
    assert [os.path.basename(p) for p in paths] == ["A.WAV"] and not bad
    (tmp_path / "A.WAV").rename(tmp_path / "A.m4a")
    with pytest.raises(DataError, match=r"一个 wav、flac、ogg 或 mp3 文件也没有（里面有 .*\.m4a 1 个"):
        gather(speech=[tmp_path], noise=[noise])


# ---- 同样的声音不当两个角色 ----


def copies(root, source, how):
    """``source`` 里的文件换一种方式再来一份。"""
    root.mkdir()
    for number, path in enumerate(sorted(source.rglob("*.wav"))):
        if how == "symlink":
            (root / f"{number}.wav").symlink_to(path)
        elif how == "hardlink":
            os.link(path, root / f"{number}.wav")
        else:
            samples, rate = soundfile.read(path, dtype="int16")
            soundfile.write(root / f"{number}.{how}", samples, rate)
    return root


@pytest.mark.parametrize("how", ["same", "symlink", "hardlink", "wav", "flac"])
def test_speech_is_not_noise_as_well(tmp_path, how):
    speech = tree(tmp_path / "s", [f"spk{s}/u.wav" for s in range(5)])
    noise = speech if how == "same" else copies(tmp_path / "n", speech, how)
    with pytest.raises(DataError, match=r"5 个文件（.*……）既当语音又当噪声；请把 --speech 与 --noise 分开"):
        gather(speech=[speech], noise=[noise])


def test_one_shared_file_is_named(tmp_path):
    speech, noise = speech_tree(tmp_path / "s"), noise_tree(tmp_path / "n")
    os.link(speech / "spk1" / "u0.wav", noise / "另一个名字.wav")
    with pytest.raises(DataError) as caught:
        gather(speech=[speech], noise=[noise])
    assert "1 个文件" in str(caught.value) and "另一个名字.wav" in str(caught.value)
    assert "spk1/u0.wav" in str(caught.value)


def test_equal_length_and_silence_are_not_the_same_sound(tmp_path):
    for folder, level in (("s", 0.1), ("n", 0.13)):
        for number in range(3):
            wave = np.zeros(16000)
            wave[:100] = level * (number + 1) / 4  # 正中间都是零
            (tmp_path / folder).mkdir(exist_ok=True)
            soundfile.write(tmp_path / folder / f"{number}.wav", wave, 16000)
        soundfile.write(tmp_path / folder / "静音.wav", np.zeros(16000), 16000)
    assert gather(speech=[tmp_path / "s"], noise=[tmp_path / "n"]).report


def test_clean_is_not_noisy_as_well(tmp_path):
    clean = tree(tmp_path / "c", ["a.wav", "b.wav"])
    noisy = tree(tmp_path / "n", ["a.wav", "b.wav"])  # 同样的种子，同样的内容
    (tmp_path / "link").symlink_to(clean)
    data = sources.Sources(max_bad=1.0)
    for other, words in (
        (clean, "同一个文件夹"),
        (tmp_path / "link", "同一个文件夹"),
        (noisy, "里是同样的声音：2 个文件"),
    ):
        with pytest.raises(DataError, match=words):
            sources.scan_pairs(clean, other, data, [])
    tone(noisy / "b.wav", seed=50)
    bad = []
    assert len(sources.scan_pairs(clean, noisy, data, bad)) == 1
    assert [os.path.basename(b.path) for b in bad] == ["a.wav"] and "没有噪声" in bad[0].reason
    with pytest.raises(DataError, match="既当纯净又当噪声"):
        gather(paired=[(clean, noisy)], speech=[speech_tree(tmp_path / "s")], noise=[clean], max_bad=1.0)


@pytest.mark.parametrize("how", ["symlink", "hardlink", "wav", "flac"])
def test_validation_copies_of_training_are_refused(tmp_path, how):
    train = tree(tmp_path / "c", ["0.wav", "1.wav"]), tree(tmp_path / "n", ["0.wav", "1.wav"], first_seed=100)
    valid = copies(tmp_path / "vc", train[0], how), copies(tmp_path / "vn", train[1], how)
    with pytest.raises(DataError, match=r"4 个文件（.*……）既在训练里又在 --valid 里"):
        gather(paired=[train], valid=valid)


def test_copies_across_the_split_are_told(tmp_path):
    speech = tree(tmp_path / "s", [f"spk{s}/u.wav" for s in range(4)])
    tree(speech, [f"copy{s}/u.wav" for s in range(4)])
    report = gather(speech=[speech], noise=[noise_tree(tmp_path / "n")], valid_share=0.3).report
    assert any("与训练的是同样的声音" in line for line in report)
    clean = gather(speech=[speech_tree(tmp_path / "t")], noise=[noise_tree(tmp_path / "m")]).report
    assert not any("同样的声音" in line for line in clean)


# ---- 文件表 ----


def test_file_table_holds_no_python_strings():
    table = FileTable([f"/数据/{i}.wav" for i in range(1000)], np.full(1000, 16000), np.full(1000, 16000))
    assert table.path(0) == "/数据/0.wav" and table.path(999) == "/数据/999.wav"
    assert all(isinstance(v, np.ndarray) for v in vars(table).values())
    rng = np.random.default_rng(0)
    drawn = {table.draw(rng) for _ in range(20000)}
    assert min(drawn) == 0 and max(drawn) == 999


def test_memory_does_not_hold_the_corpus():
    """一百万个文件的表，每个文件只占几十个字节。"""
    count = 100_000
    table = FileTable([f"/corpus/{i:07d}.wav" for i in range(count)], np.ones(count), np.ones(count))
    empty = FileTable([], [], [])
    corpus = Corpus(table, table, empty, empty)
    size = sum(array.nbytes for array in corpus.save_arrays("x").values())
    assert size < 2 * 64 * count


# ---- 检查点文件 ----


def small_state(epoch):
    return {"epoch": epoch, "w": torch.full((3,), float(epoch)), "history": [{"a": 1.5}], "best": None}


def test_previous_checkpoint_is_kept_and_used(tmp_path):
    checkpoint.save(tmp_path, small_state(1))
    checkpoint.save(tmp_path, small_state(2))
    assert checkpoint.load(tmp_path / "previous.pt")["epoch"] == 1
    blob = bytearray((tmp_path / "last.pt").read_bytes())
    lines = []
    for damage in (blob[: len(blob) // 2], b"", b"abc"):
        (tmp_path / "last.pt").write_bytes(damage)
        assert checkpoint.load_latest(tmp_path, lines.append)["epoch"] == 1
        assert "改用上一个检查点" in lines[-1]
        assert (tmp_path / "last.pt.corrupt").exists()
    checkpoint.save(tmp_path, small_state(2))
    assert checkpoint.load(tmp_path / "previous.pt")["epoch"] == 1, "坏的检查点顶掉了好的"
    (tmp_path / "last.pt").write_bytes(b"x")
    (tmp_path / "previous.pt").write_bytes(b"y")
    with pytest.raises(checkpoint.CheckpointError, match=r"都坏了.*--restart"):
        checkpoint.load_latest(tmp_path, lines.append)


def test_any_flipped_byte_of_the_weights_is_noticed(tmp_path):
    state = {"epoch": 1, "w": torch.arange(2000.0)}
    checkpoint.save(tmp_path, state)
    blob = (tmp_path / "last.pt").read_bytes()
    where = blob.index(torch.arange(2000.0).numpy().tobytes())
    for offset in (0, 1234, 7999):
        damaged = bytearray(blob)
        damaged[where + offset] ^= 1
        (tmp_path / "last.pt").write_bytes(damaged)
        with pytest.raises(checkpoint.CheckpointError):
            checkpoint.load(tmp_path / "last.pt")


def test_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"format": checkpoint.FORMAT, "state": Evil()}, tmp_path / "last.pt")
    with pytest.raises(checkpoint.CheckpointError, match="不许执行的内容"):
        checkpoint.load(tmp_path / "last.pt")
    assert not (tmp_path / "owned").exists(), "载入检查点时执行了里面的代码"


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_truncated_checkpoint_is_called_incomplete(tmp_path, share):
    checkpoint.save(tmp_path, {"epoch": 1, "w": torch.arange(2000.0)})
    blob = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(blob[: int(share * len(blob))])
    with pytest.raises(checkpoint.CheckpointError, match="不是完整的检查点"):
        checkpoint.load(tmp_path / "last.pt")


def test_missing_and_foreign_checkpoints(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    with pytest.raises(checkpoint.CheckpointError, match="找不到"):
        checkpoint.load(tmp_path / "last.pt")
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(checkpoint.CheckpointError, match="不是本书"):
        checkpoint.load(tmp_path / "other.pt")
    with pytest.raises(checkpoint.CheckpointError, match="没有检查点"):
        checkpoint.load_network(tmp_path)
