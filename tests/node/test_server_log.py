"""A server's log as it grows, with lines from real engines."""

import pytest
from conftest import compose
from hypothesis import given
from hypothesis import strategies as st

from glm5bench.node.log import Log

KEY = "Xk3v-the-key-of-this-job"
OUT_OF_MEMORY = "[2026-05-25 10:12:41 TP3] Scheduler hit an exception: Traceback (most recent call last): torch.OutOfMemoryError"
SGLANG_0_5_12 = """\
[2026-05-25 10:00:01] server_args=ServerArgs(model_path='/shared/models/zai-org/GLM-5-FP8', watchdog_timeout=300, api_key=None)
[2026-05-25 10:00:09 TP0] Init torch distributed begin.
[2026-05-25 10:00:21 TP0] Load weight begin. avail mem=176.32 GB
Loading safetensors checkpoint shards:   0% Completed | 0/142 [00:00<?, ?it/s]\r\
Loading safetensors checkpoint shards: 100% Completed | 142/142 [03:11<00:00,  1.35s/it]
[2026-05-25 10:03:40 TP0] Load weight end. elapsed=199.31 s, type=GlmMoeDsaForCausalLM, avail mem=86.1 GB, mem usage=90.2 GB.
[2026-05-25 10:03:42 TP0] KV Cache is allocated. #tokens: 1173952, KV size: 63.20 GB
[2026-05-25 10:03:43 TP0] Memory pool end. avail mem=20.11 GB
[2026-05-25 10:03:44 TP0] Capture cuda graph begin. This can take up to several minutes. avail mem=19.70 GB
[2026-05-25 10:03:52 TP0] Entering DeepGEMM JIT Pre-Compile session. It may take a long time (typically 10-20 mins)
[2026-05-25 10:03:53 TP0] Try DeepGEMM JIT Compiling for <GEMM_NT_F8F8BF16> N=2048, K=6144, num_groups=1 with all Ms.
[2026-05-25 10:10:08 TP0] Capture cuda graph end. Time elapsed: 384.11 s. mem usage=2.03 GB. avail mem=17.60 GB.
[2026-05-25 10:10:09 TP0] Load weight begin. avail mem=17.60 GB
[2026-05-25 10:10:14 TP0] Load weight end. elapsed=5.02 s, type=GlmMoeDsaForCausalLMNextN, avail mem=16.3 GB, mem usage=1.3 GB.
[2026-05-25 10:10:15 TP0] Capture draft cuda graph begin. This can take up to several minutes. avail mem=16.1 GB
[2026-05-25 10:10:31 TP0] max_total_num_tokens=1173952, chunked_prefill_size=32768, max_running_requests=64, context_len=202752
[2026-05-25 10:10:32] INFO:     Started server process [4711]
[2026-05-25 10:10:32] INFO:     Waiting for application startup.
[2026-05-25 10:10:32] INFO:     Application startup complete.
[2026-05-25 10:10:32] INFO:     Uvicorn running on http://127.0.0.1:54155 (Press CTRL+C to quit)
[2026-05-25 10:10:39] The server is fired up and ready to roll!
"""
SGLANG_0_5_23_CPU = """\
[2026-11-21 06:55:42] server_args={'model_path': '/models/test/tiny', 'watchdog_timeout': 300, 'soft_watchdog_timeout': None}
[2026-11-21 06:55:46] Init parallel begin.
[2026-11-21 06:55:47] Load weight begin. avail mem=21.73 GB

Multi-thread loading shards:   0% Completed | 0/1 [00:00<?, ?it/s]\r\
Multi-thread loading shards: 100% Completed | 1/1 [00:00<00:00, 384.59it/s]
[2026-11-21 06:55:47] Load weight end. elapsed=0.01 s, type=LlamaForCausalLM, avail mem=21.72 GB, mem usage=0.00 GB.
[2026-11-21 06:55:47] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 65536, K size: 0.02 GB, V size: 0.02 GB
[2026-11-21 06:55:47] Disable prefill CUDA graph because cuda_graph_config resolved prefill.backend='disabled'
[2026-11-21 06:55:47] max_total_num_tokens=65536, chunked_prefill_size=4096, max_running_requests=32, context_len=4096
[2026-11-21 06:55:47] INFO:     Application startup complete.
[2026-11-21 06:55:47] INFO:     Uvicorn running on http://127.0.0.1:54155 (Press CTRL+C to quit)
[2026-11-21 06:55:48] INFO:     127.0.0.1:35976 - "GET /health HTTP/1.1" 503 Service Unavailable
[2026-11-21 06:55:48] The server is fired up and ready to roll!
"""
SGLANG_0_5_23_MTP = """\
[2026-11-21 06:55:47 TP0] Load weight begin. avail mem=176.30 GB
[2026-11-21 06:58:47 TP0] Load weight end. elapsed=180.00 s, type=GlmMoeDsaForCausalLM, avail mem=86.10 GB, mem usage=90.20 GB.
[2026-11-21 06:58:48 TP0] KV Cache is allocated. dtype: torch.float8_e4m3fn, #tokens: 1173952, KV size: 63.20 GB
[2026-11-21 06:58:49 TP0] Capture target verify CUDA graph begin. backend=full, num_tokens_per_req=4, avail mem=19.70 GB
[2026-11-21 06:58:50 TP0] Try DeepGEMM JIT Compiling for <GEMM_NT_F8F8BF16> N=2048, K=6144, num_groups=1 with all Ms.
[2026-11-21 06:59:20 TP0] Capture target verify CUDA graph end. elapsed=31.00 s, mem usage=2.00 GB, avail mem=17.70 GB.
[2026-11-21 06:59:21 TP0] Capture draft decode CUDA graph begin. backend=full, avail mem=16.10 GB
[2026-11-21 06:59:31 TP0] max_total_num_tokens=1173952, chunked_prefill_size=32768, max_running_requests=64, context_len=202752
[2026-11-21 06:59:32] INFO:     Uvicorn running on http://127.0.0.1:30000 (Press CTRL+C to quit)
"""
VLLM_0_16 = """\
(APIServer pid=11) INFO 05-25 10:00:00 [utils.py:325] vLLM API server version 0.16.0, serving model zai-org/GLM-5-FP8
(EngineCore_DP0 pid=99) INFO 05-25 10:00:20 [core.py:98] Initializing a V1 LLM engine (v0.16.0) with config: model='GLM-5-FP8'
(Worker_TP0 pid=101) INFO 05-25 10:00:40 [gpu_model_runner.py:4125] Starting to load model zai-org/GLM-5-FP8...
(Worker_TP0 pid=101) Loading safetensors checkpoint shards: 100% Completed | 142/142 [03:11<00:00,  1.35s/it]
(Worker_TP0 pid=101) INFO 05-25 10:03:51 [default_loader.py:294] Loading weights took 190.60 seconds
(Worker_TP0 pid=101) INFO 05-25 10:03:52 [gpu_model_runner.py:4222] Model loading took 88.61 GiB memory and 191.102832 seconds
(Worker_TP0 pid=101) INFO 05-25 10:04:40 [gpu_worker.py:374] Available KV cache memory: 64.49 GiB
(EngineCore_DP0 pid=99) INFO 05-25 10:04:40 [kv_cache_utils.py:1307] GPU KV cache size: 753,216 tokens
(Worker_TP0 pid=101) Capturing CUDA graphs (decode, FULL):  51%|#####     | 18/35 [00:05<00:04,  3.62it/s]\r\
(Worker_TP0 pid=101) Capturing CUDA graphs (decode, FULL): 100%|##########| 35/35 [00:09<00:00,  3.66it/s]
(Worker_TP0 pid=101) INFO 05-25 10:05:02 [gpu_model_runner.py:5247] Graph capturing finished in 21 secs, took 1.87 GiB
(EngineCore_DP0 pid=99) INFO 05-25 10:05:02 [core.py:279] init engine (profile, create kv cache, warmup model) took 70.11 seconds
(APIServer pid=11) INFO 05-25 10:05:04 [api_server.py:487] Starting vLLM API server 0 on http://127.0.0.1:30000
(APIServer pid=11) INFO:     Application startup complete.
"""
VLLM_0_33 = """\
(Worker_TP0 pid=101) INFO 11-21 10:00:40 [model_runner.py:380] Starting to load model zai-org/GLM-5-FP8...
(Worker_TP0 pid=101) INFO 11-21 10:03:52 [model_runner.py:429] Model loading took 88.61 GiB memory and 191.102832 seconds
(Worker_TP0 pid=101) INFO 11-21 10:04:40 [gpu_worker.py:773] Available KV cache memory: 64.49 GiB
(EngineCore pid=99) INFO 11-21 10:04:40 [kv_cache_utils.py:1148] GPU KV cache size: 753,216 tokens, Maximum concurrency: 22.99x
(Worker_TP0 pid=101) INFO 11-21 10:05:02 [model_runner.py:1164] Graph capturing finished in 21 secs, took 1.87 GiB
(APIServer pid=11) INFO 11-21 10:05:04 [entry.py:139] Starting vLLM server on http://127.0.0.1:30000
(APIServer pid=11) INFO:     Application startup complete.
"""
LOADED = ["loading weights", "allocating the KV cache", "preparing kernels"]
COMPILED = [*LOADED, "capturing graphs", "compiling DeepGEMM kernels", "warming up"]
OF_VLLM = ["loading weights", "profiling memory", "capturing graphs", "starting its endpoints", "warming up"]
STARTS = {
    "sglang 0.5.12 with speculation": ("sglang", SGLANG_0_5_12, COMPILED),
    "sglang 0.5.23 without graphs": ("sglang", SGLANG_0_5_23_CPU, [*LOADED, "warming up"]),
    "sglang 0.5.23 with speculation": ("sglang", SGLANG_0_5_23_MTP, COMPILED),
    "vllm 0.16": ("vllm", VLLM_0_16, OF_VLLM),
    "vllm 0.33": ("vllm", VLLM_0_33, OF_VLLM),
}
every_start = pytest.mark.parametrize("start", STARTS)


def log_of(path, engine="sglang"):
    e = compose(f"engine={engine}", "speculative=off").engine
    return Log(path, e.phases, e.fatal, lambda text: text.replace(KEY, "<redacted>"))


def write(path, text):
    with path.open("ab") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def looked_at(path, text, engine="sglang"):
    log = log_of(path, engine)
    write(path, text)
    log.look()
    return log


def names(log):
    return [phase.name for phase in log.reached]


@every_start
def test_the_phases_of_a_start_come_in_order_and_each_once(tmp_path, start):
    engine, text, phases = STARTS[start]

    log = looked_at(tmp_path / "log", text, engine)

    assert names(log) == phases
    assert log.doing == "warming up"


@every_start
def test_a_start_that_goes_well_has_no_last_word(tmp_path, start):
    engine, text, _ = STARTS[start]

    assert looked_at(tmp_path / "log", text, engine).last_word == ""


@every_start
def test_a_log_that_is_looked_at_after_every_few_bytes_says_the_same(tmp_path, start):
    engine, text, phases = STARTS[start]
    log, body = log_of(tmp_path / "log", engine), text.encode()

    for at in range(0, len(body), 37):
        write(tmp_path / "log", body[at : at + 37])
        log.look()

    assert names(log) == phases
    assert [phase.line for phase in log.reached] == [p.line for p in looked_at(tmp_path / "whole", text, engine).reached]


def test_what_the_server_does_is_what_its_last_new_phase_says(tmp_path):
    log = log_of(tmp_path / "log")
    said = []

    for line in SGLANG_0_5_12.splitlines(keepends=True)[1:6]:
        write(tmp_path / "log", line)
        log.look()
        said.append(log.doing)

    assert said == ["", "loading weights", "loading weights", "loading weights", "allocating the KV cache"]


def test_a_phase_keeps_the_first_line_that_said_it(tmp_path):
    log = looked_at(tmp_path / "log", "Load weight begin. avail mem=176.32 GB\nLoad weight begin. avail mem=17.60 GB\n")

    assert [phase.line for phase in log.reached] == ["Load weight begin. avail mem=176.32 GB"]


def test_phases_are_dated_from_the_start_of_the_server_and_do_not_go_back(tmp_path):
    log = log_of(tmp_path / "log")
    log.began -= 100
    write(tmp_path / "log", SGLANG_0_5_12)
    log.look()

    dates = [phase.at_s for phase in log.reached]
    assert dates[0] >= 100
    assert dates == sorted(dates)


def test_a_progress_bar_that_returns_its_carriage_is_no_part_of_the_line_after_it(tmp_path):
    log = looked_at(tmp_path / "log", "shards:  50%\rshards: 100%\rLoad weight end. elapsed=1 s\r\nnext\n")

    assert [phase.line for phase in log.reached] == ["Load weight end. elapsed=1 s"]


def test_a_line_is_taken_once_it_is_whole(tmp_path):
    log = looked_at(tmp_path / "log", "[10:00] KV Cache is alloc")
    before = names(log)

    write(tmp_path / "log", "ated. #tokens: 5\n")
    log.look()

    assert (before, names(log)) == ([], ["preparing kernels"])
    assert log.reached[0].line == "[10:00] KV Cache is allocated. #tokens: 5"


def test_a_character_of_two_bytes_may_be_cut_between_two_looks(tmp_path):
    log = looked_at(tmp_path / "log", "Load weight begin. für ".encode()[:-3])

    write(tmp_path / "log", "ür \n".encode()[1:])
    log.look()

    assert log.reached[0].line == "Load weight begin. für"


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        ("sglang", OUT_OF_MEMORY),
        ("sglang", "[10:12:41] DetokenizerManager hit an exception: Traceback (most recent call last):"),
        ("sglang", "[10:12:41] TokenizerManager hit an exception: Traceback (most recent call last):"),
        ("sglang", "[10:12:41] DataParallelController hit an exception: Traceback (most recent call last):"),
        ("sglang", "[10:12:41] MultiTokenizerRouter hit an exception: Traceback (most recent call last):"),
        ("sglang", "[10:12:41] SIGQUIT received. signum=<Signals.SIGQUIT: 3>, frame=None. It usually means one child failed."),
        ("sglang", "[10:12:41] Received sigquit from a child process. It usually means the child failed."),
        ("sglang", "[10:12:41 TP0] Scheduler watchdog timeout (self.watchdog_timeout=300, self.soft=False)"),
        ("vllm", "(EngineCore_DP0 pid=99) ERROR 05-25 10:12:41 [core.py:1006] EngineCore failed to start."),
        ("vllm", "(EngineCore pid=99) ERROR 11-21 10:12:41 [core.py:1586] EngineCore encountered a fatal error."),
        ("vllm", "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"),
        ("vllm", "ERROR [multiproc_executor.py:248] Worker proc VllmWorker-3 died unexpectedly, shutting down executor."),
        ("vllm", "ERROR [multiproc_executor.py:381] Worker proc VllmWorker-3 died unexpectedly (exit code: -9), shutting down executor."),
        ("vllm", "ERROR [core_client.py:617] Engine core proc EngineCore_DP0 died unexpectedly, shutting down client."),
    ],
)
def test_the_line_that_a_server_dies_with_is_its_last_word(tmp_path, engine, line):
    assert looked_at(tmp_path / "log", f"before\n{line}\nafter\n", engine).last_word == line


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        ("sglang", "[10:12:41] Health check failed. Server couldn't get a response from detokenizer for last 20 seconds."),
        ("sglang", "[10:12:41] Decode batch, #running-req: 8, #token: 780, token usage: 0.01, accept len: 2.57"),
        ("sglang", "usage: launch_server.py [--watchdog-timeout WATCHDOG_TIMEOUT]"),
        ("sglang", "[10:12:41] Exception in one request: ValueError: input is too long"),
        ("vllm", "WARNING 05-25 [core.py:98] Initializing a V1 LLM engine (v0.16.0) with config: model='died'"),
        ("vllm", "INFO:     127.0.0.1:35976 - 'GET /health HTTP/1.1' 503 Service Unavailable"),
    ],
)
def test_a_line_of_a_server_that_lives_is_no_last_word(tmp_path, engine, line):
    assert looked_at(tmp_path / "log", line + "\n", engine).last_word == ""


def test_the_first_of_several_last_words_stays(tmp_path):
    log = looked_at(tmp_path / "log", f"{OUT_OF_MEMORY}\nReceived sigquit from a child process.\n")
    write(tmp_path / "log", "SIGQUIT received.\n")
    log.look()

    assert log.last_word == OUT_OF_MEMORY


def test_a_last_word_is_cut_to_a_length_that_a_message_can_hold(tmp_path):
    assert len(looked_at(tmp_path / "log", f"Scheduler hit an exception: {'x' * 5000}\n").last_word) == 300


def test_an_engine_without_such_expressions_has_no_phases_and_no_last_word(tmp_path):
    log = Log(tmp_path / "log", {}, (), str)
    write(tmp_path / "log", f"{SGLANG_0_5_12}{OUT_OF_MEMORY}\n\n")
    log.look()

    assert (log.reached, log.last_word) == ([], "")


def test_the_key_is_in_no_phase_no_last_word_and_no_tail(tmp_path):
    log = looked_at(tmp_path / "log", f"Load weight begin. --api-key {KEY}\nSIGQUIT received. {KEY}\n")

    assert log.reached[0].line == "Load weight begin. --api-key <redacted>"
    assert log.last_word == "SIGQUIT received. <redacted>"
    assert log.tail().count("<redacted>") == 2
    assert KEY not in log.tail()


def test_a_key_at_the_end_of_what_a_message_holds_is_not_cut_into_sight(tmp_path):
    log = looked_at(tmp_path / "log", f"SIGQUIT received. {'x' * 270}{KEY}\n")

    assert KEY[:8] not in log.last_word


def test_what_an_earlier_server_of_the_same_job_wrote_is_not_read(tmp_path):
    write(tmp_path / "log", f"{SGLANG_0_5_12}{OUT_OF_MEMORY}\n")

    log = looked_at(tmp_path / "log", "Load weight begin. avail mem=17.60 GB\n")

    assert names(log) == ["loading weights"]
    assert log.last_word == ""


def test_a_log_that_is_not_there_yet_says_nothing_and_is_read_once_it_is(tmp_path):
    log = log_of(tmp_path / "log")
    log.look()
    before = (log.doing, log.tail(), log.has_begun)

    write(tmp_path / "log", "Load weight begin.\n")
    log.look()

    assert before == ("", "", False)
    assert (log.doing, log.has_begun) == ("loading weights", True)


def test_the_tail_is_the_end_of_the_log(tmp_path):
    log = looked_at(tmp_path / "log", "a" * 5000 + "the end\n")

    assert log.tail(8) == "the end\n"
    assert len(log.tail()) == 4000


@given(garbage=st.binary(max_size=300))
def test_bytes_that_are_no_text_neither_stop_the_reading_nor_hide_the_next_line(tmp_path_factory, garbage):
    path = tmp_path_factory.mktemp("garbage") / "log"

    log = looked_at(path, garbage + b"\n" + OUT_OF_MEMORY.encode() + b"\nLoad weight begin.\n")

    assert log.last_word == OUT_OF_MEMORY
    assert names(log)[-1] == "loading weights"
    assert isinstance(log.tail(), str)


def test_the_log_of_an_earlier_server_is_no_first_word_of_this_one(tmp_path):
    write(tmp_path / "log", "earlier\n")

    assert not log_of(tmp_path / "log").has_begun


def test_a_tail_that_begins_in_the_middle_of_the_key_shows_no_half_of_it(tmp_path):
    log = looked_at(tmp_path / "log", f"{'x' * 500}\n{KEY}\nend\n")

    assert not any(KEY[4:] in log.tail(n) for n in range(1, 60))


@pytest.mark.parametrize(
    ("line", "is_dead"),
    [
        ("SIGQUIT received. frame=None", True),  # without a line end
        ("MultiDetokenizerRouter hit an exception: Traceback\n", True),
        ("Scheduler watchdog timeout (self.watchdog_timeout=300, self.soft=False)\n", True),
        ("TokenizerManager watchdog timeout (self.watchdog_timeout=300, self.soft=True)\n", False),
    ],
)
def test_the_last_words_of_sglang_are_known_from_its_mere_warnings(tmp_path, line, is_dead):
    assert bool(looked_at(tmp_path / "log", line).last_word) == is_dead
