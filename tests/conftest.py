"""各测试共用：分几个进程跑、每个测试要什么、建好的网站、浏览器；持续集成里不许有名单之外的跳过。"""

import os
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AXE = ROOT / "tools" / "node_modules" / "axe-core" / "axe.min.js"
sys.path.insert(0, str(ROOT / "_ext"))
sys.path.insert(0, str(ROOT / "tools"))

# 几个进程各占一个核：数值库若再各开几个线程，只会互相等着空转（要在载入 torch 之前设）
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

sys.modules.setdefault("rfc3987_syntax", None)  # nbformat 经 jsonschema 载入它，编三十几份文法，每个进程一秒

# ---- 几个进程、什么次序 ----

MEMORY = 1.5  # 一个进程（torch 加浏览器）最多约占的 GB


def pytest_xdist_auto_num_workers(config):
    """``-n auto`` 的进程数：一核一个，内存不够就少开；只点名几个测试时不值得另起进程。"""
    from lstm_lib.cli.doctor import physical_memory

    if config.args and all("::" in argument for argument in config.args):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = physical_memory()
    return max(1, min(cores, 16, int(memory / MEMORY) if memory else cores))


# ---- 抽到的数不看次序：一个测试在哪个进程、排第几，都从自己的名字抽起 ----


def generators(module):
    """一个测试模块抽数的地方：（读状态，写状态，从一个种子造状态）。"""
    import numpy as np

    yield np.random.get_state, np.random.set_state, lambda seed: np.random.RandomState(seed).get_state()
    if torch := sys.modules.get("torch"):
        yield (
            torch.get_rng_state,
            torch.set_rng_state,
            lambda seed: torch.Generator().manual_seed(seed).get_state(),
        )
    for value in vars(module).values():
        if isinstance(value, np.random.Generator):  # 几个测试合用的那一个
            bits = value.bit_generator
            yield (
                lambda bits=bits: bits.state,
                lambda state, bits=bits: setattr(bits, "state", state),
                lambda seed, bits=bits: type(bits)(seed).state,
            )


def reseed(name, module):
    """从名字抽起；返回一个函数，把各处放回原来的状态。"""
    kept = []
    for get, put, fresh in generators(module):
        kept.append((put, get()))
        put(fresh(zlib.crc32(name.encode())))
    return lambda: [put(state) for put, state in kept]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    reseed(item.nodeid.split("@")[0], item.module)  # @ 之后是 xdist 的组名


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    """几个测试合用的东西由谁先建都一样，建它也不改变那个测试接着抽到的数。"""
    if fixturedef.scope != "module":
        return (yield)
    restore = reseed(f"{fixturedef.argname}[{request.param_index}]", request.module)
    try:
        return (yield)
    finally:
        restore()


# ---- 每个测试要什么：不用逐个标，看它用了哪些公用的东西 ----

NEEDS = {  # 公用的东西 → 标记
    "chromium": "browser",
    "other_browser": "browser",
    "book_site": "book",
    "tiny_book": "build",
    "trained": "data",
}
MARKERS = ("browser", "book", "build", "notebooks", "data", "slow")  # 有其一就不是 quick
# 一秒以上的：编译、训练几步、起许多进程、转换模型；文件 → 测试的名字与大约的秒数（处理器时间）。
# 名字写错了 test_repo.py 会说
SLOW = {
    "test_train_options.py": {
        "test_a_run_with_all_the_new_options_resumes_bit_for_bit": 2,
    },
    "test_onnx_relatives.py": {
        "test_wrong_arguments_of_export": 1,
        "test_a_learned_state_by_repeat_interleave": 2,
    },
    "test_onnx_scopes.py": {
        "test_an_lstm_taken_apart_is_recognised": 2,
        "test_functions_that_multiply_without_end_are_refused": 1,
        "test_a_learned_state_exported_by_torch": 2,
        "test_a_projection_written_by_the_exporter_is_refused_by_its_reason": 2,
    },
    "test_audio.py": {
        "test_long_compressed_files_are_written": 3,
    },
    "test_board.py": {
        "test_the_head_takes_raw_samples": 5,
        "test_the_board_equals_torch": 3,
        "test_the_tail_reports_what_python_reports": 3,
    },
    "test_lstm_import.py": {
        "test_batch_first_is_recognised": 3,
    },
    "test_weights.py": {
        "test_the_command_of_the_card_runs": 100,  # 训练噪声还没有做过的话
        "test_int8_loses_next_to_nothing": 3,
        "test_commands_use_it_unless_told_otherwise": 3,
    },
    "test_live.py": {"test_a_minute_on_a_busy_machine": 62},
    "test_seeds.py": {"test_order_and_neighbours_change_no_number": 6},
    "test_native.py": {
        "test_neon_under_qemu": 70,  # 交叉编译一份 C 库；zig 的缓存里有了就只要一秒
        "test_address_and_undefined_sanitizers": 28,
        "test_ziglang_alone_is_enough": 11,
        "test_lesson_fft_equals_numpy": 4,  # 编译一份带 FFT 的教学程序
        "test_a_broken_library_in_the_cache_is_compiled_again": 1,
    },
    "test_program.py": {
        "test_two_files_compile_alone_and_give_the_same_bits": 9,
        "test_other_processors_give_the_same_sound": 5,
        "test_programs_for_other_systems_compile": 4,
        "test_sanitizers_over_the_whole_chain": 12,  # 编译也在里面
        "test_python_command_and_program_write_the_same_samples": 3,
        "test_damaged_wav_headers_do_no_harm": 2,
        "test_a_recording_ends_and_a_conversion_leaves_nothing": 2,
        "test_damaged_models_are_refused_without_harm": 8,
    },
    "test_training.py": {
        "test_full_disk_for_real": 2,
        "test_changed_settings_are_refused_and_restart_works": 2,
        "test_killed_run_goes_on_to_the_same_result": 13,
        "test_two_processes_see_the_loss_of_one": 11,
        "test_output_that_is_not_shared_stops_every_process": 4,
        "test_workers_do_not_change_the_result": 4,
        "test_training_lowers_the_loss": 3,
        "test_outputs_of_a_run": 6,
        "test_corrupt_last_checkpoint_ends_in_the_same_result": 6,
        "test_too_many_bad_files_stop_the_command": 2,
        "test_builtin_corpus_gives_a_network_for_enhance": 3,
    },
    "test_irm.py": {"test_training_is_deterministic_and_learns": 3},
    "test_cli_enhance.py": {
        "test_inputs_that_cannot_be_rewound": 3,
        "test_closed_streams_do_not_stop_the_work": 3,
        "test_full_standard_output_is_said_in_chinese": 2,
        "test_what_enhancing_does_not_need_is_not_loaded": 2,
        "test_memory_does_not_grow_with_length": 7,
        "test_full_disk_is_reported_and_cleaned_up": 3,
        "test_interrupted_run_leaves_nothing_behind": 3,
        "test_rate_that_ogg_cannot_hold": 2,
    },
    "test_evaluate_export.py": {
        "test_fp16_halves_the_file": 1,
        "test_evaluating_on_the_training_files_is_told": 1,
        "test_processes_do_not_change_the_scores": 4,
        "test_bin_and_ncnn_share_a_folder": 2,
        "test_exports_agree_with_torch": 2,
        "test_streaming_export_carries_the_state": 1,
        "test_names_that_are_not_utf8_anywhere": 12,
    },
    "test_onnx_graph.py": {
        "test_undeclared_outputs_do_not_keep_the_length_of_the_example": 1,
        "test_an_axis_that_cannot_vary_is_refused": 3,
        "test_what_torch_alone_writes_is_repaired_or_refused": 3,
        "test_declared_axes_are_really_variable": 2,
        "test_a_second_dynamo_export_stays_variable": 2,
        "test_computed_weights_are_refused_not_folded_into_gigabytes": 8,
        "test_dynamic_exports_match_torch_before_and_after_simplify": 6,
        "test_operator_counts_equal_the_file": 5,
        "test_every_export_reads_back_the_same_weights": 5,
    },
    "test_doctor.py": {
        "test_this_machine_is_fine": 2,
        "test_unwritable_cache_fails": 2,
        "test_any_output_encoding": 2,
        "test_reader_that_leaves_early": 2,
    },
    "test_bench.py": {"test_a_program_runs": 9},
    "test_config.py": {"test_schedule_equals_one_cycle_bit_for_bit": 2},
    "test_netron.py": {
        "test_pictures_show_the_operators_of_the_models": 3,
        "test_copy_is_idempotent_and_light": 4,
    },
    "test_recipes.py": {"test_a_recipe_runs_alone": 15},
    "test_stacks.py": {"test_the_other_exporter_too": 5},
    "test_streaming.py": {"test_latency_is_the_longest_wait_not_the_first": 3},
    "test_symptoms.py": {"test_the_check_tells_the_sick_from_the_sound": 19},
    "test_corpus.py": {"test_speech_is_reproducible_in_a_fresh_process": 2},
    "test_site_build.py": {
        "test_processor_and_instructions_are_this_machines": 1,
        "test_pdf_has_every_page_outline_and_text": 60,
        "test_changed_library_reexecutes_unchanged_notebooks": 12,
        "test_a_strict_build_fails_until_the_book_is_mended": 10,
        "test_a_failing_assert_fails_the_build_every_time": 5,
        "test_every_chapter_alone_in_an_empty_folder": 5,
        "test_search_finds_numbers_and_options": 12,
        "test_launch_buttons_appear_with_an_address": 3,
        "test_a_published_site_knows_its_address": 8,
        "test_without_an_address_nothing_points_anywhere": 4,
        "test_a_published_page_takes_reports_and_edits": 6,
        "test_a_book_without_an_address_is_not_published": 3,
        "test_the_book_is_got_on_known_systems_only": 4,
        "test_anchors_of_repeated_and_labelled_sections": 5,
        "test_the_estimate_measures_this_machine": 3,
    },
    "test_site_browser.py": {
        "test_page_is_whole": 6,
        "test_page_on_a_phone_in_the_dark": 5,
        "test_the_print_button_prints_folded_code_and_a_running_head": 20,
        "test_folded_answers_open": 10,
        "test_search_finds_a_phrase_inside_a_sentence": 9,
    },
    "test_repo.py": {
        "test_every_import_has_a_requirement": 2,
        "test_setup_cells_take_an_address": 2,
        "test_notebooks_carry_no_outputs": 2,
        "test_tool_help_is_chinese_and_does_nothing": 2,
        "test_workflows_pass_actionlint": 2,
    },
    "test_ncnn_model.py": {
        "test_conversion_matches_torch_and_the_file": 1,
        "test_any_bytes_give_an_error_or_an_answer": 2,
        "test_onnx_road_gives_the_same_bytes": 1,
    },
    "test_engines.py": {
        "test_engines_from_exported_files": 2,
        "test_engines_from_files_made_by_the_converters": 2,
    },
    "test_ncnn_convert.py": {
        "test_wrapped_and_parametrized_modules": 1,
        "test_learned_state_in_a_file": 1,
        "test_crash_is_caught_and_swapped_states_are_seen": 1,
        "test_a_crash_names_the_layer": 1,
        "test_one_state_given_and_one_learned": 1,
        "test_time_first_and_larger_batches": 1,
        "test_mismatch_leaves_the_old_files": 1,
        "test_the_stated_reason_is_the_true_one": 2,
    },
    "test_lstm.py": {
        "test_equals_torch": 3,
    },
    "test_figures.py": {
        "test_drawing_does_not_depend_on_the_process": 3,
        "test_committed_files_are_what_the_code_draws": 2,
    },
    "test_chain_race.py": {
        "test_command": 3,
        "test_table_has_every_engine_and_consistent_numbers": 1,
    },
    "test_lstm_backward.py": {
        "test_equals_autograd": 2,
    },
    "test_mix.py": {
        "test_pairs_have_the_snr_in_their_name_and_come_out_the_same_again": 1,
    },
    "test_road.py": {
        "test_streaming_exports": 1,
    },
    "test_gate_check.py": {
        "test_the_mistake_is_named_from_the_output_alone": 1,
    },
}
# 几个测试合用、做一次要几秒的东西：用它的都算慢
COSTLY = ("unbroken", "board")
# 要语料或训练好的网络，却没有写成公用的东西的
DATA = {"test_corpus.py": ("test_scenes", "test_training_data"), "test_training.py": ("test_builtin_corpus",)}
# 用同一份贵重东西的测试放在同一个进程里；别的测试谁闲着谁做
GROUPS = ("soups", "unbroken", "netron", "sanitized", "exported", "board")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        for fixture, marker in NEEDS.items():
            if fixture in item.fixturenames:
                item.add_marker(marker)
        name = item.originalname or item.name
        if name in SLOW.get(item.path.name, {}):
            item.add_marker(pytest.mark.slow(seconds=SLOW[item.path.name][name]))
        elif any(fixture in item.fixturenames for fixture in COSTLY):
            item.add_marker(pytest.mark.slow(seconds=1))
        if name.startswith(DATA.get(item.path.name, ()) or "?"):
            item.add_marker("data")
        if not any(item.get_closest_marker(marker) for marker in MARKERS):
            item.add_marker("quick")
        for group in GROUPS:
            if group in item.fixturenames:
                item.add_marker(pytest.mark.xdist_group(group))
                break
    # 最慢的先开工，免得最后只剩一个进程在忙；持续的时间差不多的保持原来的次序
    items.sort(key=lambda item: -cost(item))


def cost(item) -> int:
    """大约几秒：``slow`` 标记可以写明，别的凭标记估。"""
    slow = item.get_closest_marker("slow")
    if slow is not None:
        return slow.kwargs["seconds"]
    guesses = {"notebooks": 10, "build": 20, "browser": 2, "data": 3, "book": 1}
    return max((seconds for name, seconds in guesses.items() if item.get_closest_marker(name)), default=0)


# ---- 公用的东西 ----


def need_axe():
    """没有 axe-core 就跳过，说明怎么装。"""
    if not AXE.is_file():
        pytest.skip("没有 axe-core：在 tools/ 里运行 npm ci 之后才查无障碍")


@pytest.fixture(scope="session")
def book_site() -> Path:
    """建好的网站：``_build/html``，或环境变量 ``BOOK_SITE`` 指的那一份；没有或已经过时就跳过。"""
    from book_key import KEY_FILE, content_key

    given = Path(os.environ.get("BOOK_SITE") or ROOT / "_build" / "html")
    key = given / KEY_FILE
    if key.is_file() and key.read_text(encoding="utf-8") == content_key(ROOT):
        return given.resolve()
    assert "BOOK_SITE" not in os.environ, f"{given} 不是眼下这份文稿建成的：先重新建书，或去掉 BOOK_SITE"
    state = "不是眼下这份文稿建成的" if given.is_dir() else "还没有"
    pytest.skip(f"建好的书{state}：先运行 jupyter-book build .，成书才查得了")


@pytest.fixture(scope="session")
def site_url(book_site):
    from site_server import serve

    with serve(book_site) as base:
        yield base


@pytest.fixture(scope="session")
def chromium():
    """Chromium 的路径；没有就跳过，说明怎么装。"""
    from site_server import find_chromium

    path = find_chromium()
    if path is None:
        pytest.skip("没有 Chromium：浏览器测试跳过（Debian：apt-get install chromium）")
    return path


@pytest.fixture(scope="session")
def browser(chromium):
    from playwright.sync_api import sync_playwright
    from site_server import BROWSER_ARGS

    with sync_playwright() as play:
        instance = play.chromium.launch(executable_path=chromium, args=BROWSER_ARGS)
        yield instance
        instance.close()


@pytest.fixture(scope="module")
def one_thread():
    """torch 只用一个线程：训练的求和次序固定，也不与别的进程抢核。"""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- 跳过 ----


def allowed_skips() -> list[str]:
    lines = (ROOT / ".ci" / "allowed-skips.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """``CI_STRICT_SKIPS=1`` 时，理由不在 .ci/allowed-skips.txt 里的跳过算失败。"""
    if os.environ.get("CI_STRICT_SKIPS") != "1" or hasattr(session.config, "workerinput"):
        return  # 分进程跑时，各进程的结果汇总到主进程再查
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    allowed, surprises = allowed_skips(), []
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(text in reason for text in allowed):
            surprises.append(f"{report.nodeid}：{reason}")
    if surprises:
        session.config.surprising_skips = surprises
        session.exitstatus = max(int(exitstatus), 1)


def pytest_terminal_summary(terminalreporter, config):
    for line in getattr(config, "surprising_skips", []):
        terminalreporter.write_line(f"不该跳过：{line}", red=True)
