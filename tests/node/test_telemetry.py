"""Energy over exactly the window, from readings of GPUs, and the readers: NVML, AMD's library and tools, as documented."""

import itertools
import json
import os
import re
import socket
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import TESTS, until

from glm5bench.analysis.energy import energy, faults
from glm5bench.analysis.telemetry import Telemetry, Track
from glm5bench.client.endpoint import Endpoint
from glm5bench.errors import AnalysisError
from glm5bench.node.telemetry import amd
from glm5bench.node.telemetry.double import Library, NVMLError_FunctionNotFound, NVMLError_GpuIsLost, recorded
from glm5bench.node.telemetry.nvml import Nvml
from glm5bench.node.telemetry.watching import Observer, Wanted, observing, telemetry, used

DATA = TESTS / "data" / "telemetry"
S = 10**9
A, B = "GPU-a", "GPU-b"


def of(*curves):
    """Telemetry of (device, name, [(s, value), ...])."""
    return Telemetry.of([(Track(d, n, ""), [round(t * S) for t, _ in at], [v for _, v in at]) for d, n, at in curves])


def steady(device, watts, start=-1, stop=12, step=1.0, counter=True):
    """Power and energy counter of a GPU with constant power."""
    at = np.arange(start, stop + step / 2, step)
    power = (device, "power", [(t, watts) for t in at])
    return [power, (device, "energy", [(t, 5000 + watts * (t - start)) for t in at])] if counter else [power]


def test_energy_is_the_counters_difference_over_exactly_the_window():
    spent = energy(of(*steady(A, 700), *steady(B, 300)), [A, B], round(0.25 * S), round(9.5 * S))

    assert spent.joules == pytest.approx(1000 * 9.25)
    assert spent.power_w == pytest.approx(1000)
    assert spent.faults == ()


def test_the_ends_are_interpolated_between_readings():
    rising = of((A, "power", [(0, 0), (10, 1000)]), (A, "energy", [(t / 2, 100 * (t / 2) ** 2 / 2) for t in range(21)]))
    power_alone = of((A, "power", [(t, 100 * t) for t in range(11)]))

    assert energy(power_alone, [A], 2 * S + S // 2, 7 * S).joules == pytest.approx(100 * (7**2 - 2.5**2) / 2)
    assert rising.curves("energy")[A].gained(2 * S, 4 * S) == pytest.approx(600)


def test_a_counter_that_began_anew_loses_nothing_but_the_step():
    t = of((A, "energy", [(0, 900), (1, 1000), (2, 50), (3, 150), (4, 250)]))

    assert t.curves("energy")[A].gained(0, 4 * S) == 300


def test_simulated_seconds_are_as_many_as_the_clock_was_fast():
    at = np.arange(-1, 12)
    t = of((A, "power", [(s, 500) for s in at]), (A, "energy", [(s, 500 * 20 * (s + 1)) for s in at]))
    spent = energy(t, [A], 0, 10 * S, time_scale=20)

    assert (spent.joules, spent.power_w, spent.faults) == (pytest.approx(500 * 200), pytest.approx(500), ())


@pytest.mark.parametrize(
    ("told", "devices", "code", "says"),
    [
        (steady(A, 700), [A, B], "power_gpu_missing", "1 of 2 GPUs reported no power, the first is GPU-b"),
        (steady(A, 700), [], "power_gpu_missing", "no GPU was read"),
        (steady(A, 700, start=1), [A], "power_gap", "do not cover the whole window"),
        (steady(A, 700, stop=8), [A], "power_gap", "do not cover the whole window"),
        ([(A, "power", [(-1, 5), (0, 5), (4, 5), (11, 5)])], [A], "power_gap", "was not read for 7.0 s"),
        ([(A, "power", [(t, 500) for t in range(-1, 12)]), steady(A, 700)[1]], [A], "power_disagrees", "counted 7,000 J"),
    ],
)
def test_what_cannot_be_said_is_no_figure_and_has_its_reason(told, devices, code, says):
    spent = energy(of(*told), devices, 0, 10 * S)

    assert np.isnan(spent.joules)
    assert np.isnan(spent.power_w)
    assert [fault.code for fault in spent.faults] == [code]
    assert says in spent.faults[0].text


@pytest.mark.parametrize(("off", "is_told"), [(0.04, True), (0.06, False), (-0.04, True), (-0.06, False)])
def test_counter_and_power_may_differ_by_a_twentieth(off, is_told):
    counter = steady(A, 700)[1]
    power = (A, "power", [(t, 700 * (1 - off)) for t in range(-1, 12)])

    assert np.isfinite(energy(of(power, counter), [A], 0, 10 * S).joules) == is_told


def test_a_jump_between_two_readings_at_the_edge_is_no_disagreement():
    """A GPU of 100 W that draws 900 W from 0 to 5 s, read just before and after, and every second between."""
    at = [-1, -0.05, 0.9, 1.9, 2.9, 3.9, 5.05, 6]
    counted = [100 * (t + 1) + 800 * min(max(t, 0), 5) for t in at]
    t = of((A, "power", [(s, 900.0 if 0 <= s < 5 else 100.0) for s in at]), (A, "energy", list(zip(at, counted, strict=True))))

    assert energy(t, [A], 0, 5 * S).joules == pytest.approx(4500, rel=0.02)


def test_gaps_count_up_to_three_seconds():
    at = [(-1, 5), (0, 5), (3, 5), (6, 5), (9, 5), (12, 5)]

    assert energy(of((A, "power", at)), [A], 0, 10 * S).joules == pytest.approx(50)
    assert energy(of((A, "power", [(t if t != 6 else 6.01, v) for t, v in at])), [A], 0, 10 * S).faults


def test_a_gpu_without_power_has_its_counter_alone():
    assert energy(of(steady(A, 700)[1]), [A], 0, 10 * S).joules == pytest.approx(7000)


def test_a_gpu_that_slows_itself_down_and_memory_that_errs_are_said():
    t = of((A, "slowed_down", [(s, float(s in (3, 4))) for s in range(11)]), (B, "ecc_uncorrected", [(-1, 2), (5, 2), (11, 3)]))

    assert [fault.code for fault in faults(t, [A, B], 0, 10 * S)] == ["gpu_slowed_down", "gpu_memory_errors"]
    assert faults(t, [A], 5 * S, 10 * S) == []
    assert "GPU-a slowed itself down (heat or its power supply) in 18% of the readings" in faults(t, [A], 0, 10 * S)[0].text


@given(st.lists(st.floats(1, 1000), min_size=2, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_parts_of_a_window_add_up_to_it(watts, x, y):
    curve = of((A, "power", list(enumerate(watts)))).curves("power")[A]
    end = (len(watts) - 1) * S
    cuts = sorted({0, round(x * end), round(y * end), end})
    parts = [curve.integral(a, b) for a, b in itertools.pairwise(cuts)]

    assert sum(parts) == pytest.approx(curve.integral(0, end), rel=1e-6)


def test_no_mean_is_made_of_readings_that_do_not_cover_the_window():
    curve = of((A, "power", [(0, 5), (1, 5)])).curves("power")[A]

    with pytest.raises(AnalysisError):
        curve.mean(0, 2 * S)


def test_what_was_not_read_is_left_out():
    t = Telemetry.of([(Track(A, "power", "W"), [0, 1, 2], [1.0, None, float("nan")]), (Track(A, "energy", "J"), [0], [None])])

    assert ([track.name for track in t.tracks], t.value.tolist()) == (["power"], [1.0])


def test_nvml_is_read_in_its_units():
    nvml = Nvml(Library(recorded(DATA / "nvml.jsonl"), driver="580.65.06"))
    first, second = nvml.read()

    assert [(d.index, d.uuid, d.name, d.driver) for d in nvml.devices][1] == (
        1, "GPU-00000001-0000-0000-0000-000000000000", "NVIDIA H200", "580.65.06",
    )  # fmt: skip
    assert {**first} == {
        "power": 402.0, "energy": 10800.0, "sm_clock": 1950.0, "memory_clock": 3201.0, "temperature": 52.0, "utilisation": 0.98,
        "memory_used": 128.0, "power_capped": 0.0, "slowed_down": 0.0, "ecc_uncorrected": 0.0,
    }  # fmt: skip
    assert second["power"] == 452.0


@pytest.mark.parametrize(("mask", "capped", "slowed"), [(0x1, 0, 0), (0x4, 1, 0), (0x20, 0, 1), (0x48, 0, 1), (0x84, 1, 1)])
def test_why_a_clock_is_low_is_power_or_heat(mask, capped, slowed):
    nvml = Nvml(Library(lambda: [{"uuid": A, "name": "x", "event_reasons": mask}]))
    (read,) = nvml.read()

    assert (read["power_capped"], read["slowed_down"]) == (capped, slowed)


def test_what_a_gpu_does_not_support_is_none():
    (read,) = Nvml(Library(lambda: [{"uuid": A, "name": "x", "power_mw": 1000}])).read()

    assert {name for name, value in read.items() if value is not None} == {"power"}


def test_a_gpu_that_is_lost_says_nothing_more():
    both, one = [{"uuid": u, "name": "x", "power_mw": 1000} for u in (A, B)], [{"uuid": A, "name": "x", "power_mw": 1000}]
    turns = iter([both, both, one])
    nvml = Nvml(Library(lambda: next(turns)))

    assert [read["power"] for read in nvml.read()] == [1.0, None]


def test_an_old_driver_is_asked_by_its_old_name():
    class Old(Library):
        def nvmlDeviceGetCurrentClocksEventReasons(self, h):
            raise NVMLError_FunctionNotFound("new")

        def nvmlDeviceGetCurrentClocksThrottleReasons(self, h):
            return 0x4

    (read,) = Nvml(Old(lambda: [{"uuid": A, "name": "x"}])).read()

    assert read["power_capped"] == 1.0


def test_no_driver_is_said():
    def nothing():
        raise OSError("Driver Not Loaded")

    with pytest.raises(OSError, match="Driver Not Loaded"):
        Nvml(Library(nothing))


MI300 = {
    "power": 717.0, "energy": 1004108.4, "sm_clock": 2100.0, "memory_clock": 1300.0, "temperature": 71.0, "utilisation": 0.97,
    "memory_used": 160.0, "power_capped": 1.0, "slowed_down": 0.0, "ecc_uncorrected": 1.0,
}  # fmt: skip


def prints(**files):
    return lambda command: json.loads((DATA / files[command[1].lstrip("-")]).read_text())


def test_amd_smi_is_read_in_both_of_its_forms():
    told = amd.AmdSmiTool(prints(list="amd_smi_list.json", metric="amd_smi_metric.json"))
    older = amd.AmdSmiTool(lambda c: (d := prints(list="amd_smi_list.json", metric="amd_smi_metric.json")(c)) if c[1] == "list" else d)
    older._run = lambda c: prints(metric="amd_smi_metric.json")(c)["gpu_data"]

    assert [d.uuid for d in told.devices] == ["8eff74a1-0000-1000-8044-000000000001", "8fff74a1-0000-1000-8044-000000000002"]
    assert [dict(read) for read in older.read()] == [dict(read) for read in told.read()] == [MI300, dict.fromkeys(MI300)]


def test_a_tool_that_prints_nothing_costs_the_reading_and_no_more():
    told = amd.AmdSmiTool(prints(list="amd_smi_list.json", metric="amd_smi_metric.json"))
    told._run = lambda c: amd.run(["false"])

    assert {value for read in told.read() for value in read.values()} == {None}


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (f"cat {DATA}/tool_without_driver.txt >&2", "ERROR:root:Driver not initialized (amdgpu not found in modules)"),
        ("echo no device", "no device"),
        ("exit 2", "exit code 2"),
    ],
    ids=["recorded", "said", "silent"],
)
def test_why_a_tool_has_nothing_to_tell_is_told_in_its_own_words(tmp_path, monkeypatch, script, says):
    (tmp_path / "amd-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "amd-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    with pytest.raises(OSError, match=f"^amd-smi printed no JSON: {re.escape(says)}$"):
        amd.amd()


class AmdSmi(types.SimpleNamespace):
    """The part of ROCm's library that is used."""

    class AmdSmiException(Exception):
        pass

    AmdSmiTemperatureType = types.SimpleNamespace(HOTSPOT="hotspot")
    AmdSmiTemperatureMetric = types.SimpleNamespace(CURRENT=0)
    AmdSmiClkType = types.SimpleNamespace(GFX="gfx", MEM="mem")

    def amdsmi_init(self): ...
    def amdsmi_get_processor_handles(self):
        return ["h0", "h1"]

    def amdsmi_get_gpu_device_uuid(self, h):
        return f"uuid-{h}"

    def amdsmi_get_gpu_asic_info(self, h):
        return {"market_name": "AMD Instinct MI300X"}

    def amdsmi_get_gpu_driver_info(self, h):
        raise self.AmdSmiException("not supported")

    def amdsmi_get_power_info(self, h):
        return {"current_socket_power": 717, "average_socket_power": "N/A", "socket_power": 2**32 - 1}

    def amdsmi_get_energy_count(self, h):
        return {"energy_accumulator": 65628, "counter_resolution": 15.3}

    def amdsmi_get_temp_metric(self, h, sensor, metric):
        return 71 if sensor == "hotspot" else 0

    def amdsmi_get_clock_info(self, h, kind):
        return {"clk": 2100 if kind == "gfx" else 1300}

    def amdsmi_get_gpu_activity(self, h):
        return {"gfx_activity": 97, "mm_activity": "N/A"}

    def amdsmi_get_gpu_vram_usage(self, h):
        return {"vram_total": 196592, "vram_used": 163840}

    def amdsmi_get_violation_status(self, h):
        return {"active_ppt_pwr": True, "active_prochot_thrm": False, "active_socket_thrm": "N/A"}

    def amdsmi_get_gpu_total_ecc_count(self, h):
        return {"uncorrectable_count": 1}

    def amdsmi_get_gpu_process_list(self, h):
        return [{"pid": 42}, {"pid": "N/A"}]


def test_rocms_library_is_read_and_asks_one_gpu_a_turn_why_it_is_slow():
    smi = amd.AmdSmi(AmdSmi())
    readings = [smi.read() for _ in range(2)]

    assert dict(readings[0][1]) == {**MI300, "energy": pytest.approx(1.0041084)}
    assert [[read["power_capped"] for read in reading] for reading in readings] == [[None, 1.0], [1.0, None]]
    assert (smi.devices[0].uuid, smi.devices[0].name, list(smi.processes(smi.devices[0]))) == ("uuid-h0", "AMD Instinct MI300X", [42])


@pytest.mark.parametrize("value", ["N/A", "", None, 0xFFFF, 2**32 - 1, 2**64 - 1, "nan", {"value": "N/A", "unit": "W"}, []])
def test_what_says_that_there_is_no_figure_is_none(value):
    assert amd.number(value) is None


FOUR = [{"index": i, "place": i, "uuid": f"GPU-{i}0", "pids": []} for i in range(4)]


@pytest.mark.parametrize(
    ("n", "visible", "uuids"),
    [
        (2, None, ["GPU-00", "GPU-10"]),
        (2, "2,3", ["GPU-20", "GPU-30"]),
        (1, "3,1", ["GPU-30"]),
        (2, "GPU-3,GPU-1", ["GPU-30", "GPU-10"]),
        (2, "", ["GPU-00", "GPU-10"]),
    ],
)
def test_the_servers_gpus_are_the_first_that_it_may_see(n, visible, uuids):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    assert [d["uuid"] for d in used(FOUR, Wanted("nvidia", n, 1, 1.0), environment)] == uuids


def test_the_servers_gpus_are_those_on_which_its_session_computes():
    own = [{**d, "pids": [os.getpid()] if d["index"] in (1, 3) else [2**22 + 1]} for d in FOUR]

    assert [d["uuid"] for d in used(own, Wanted("nvidia", 2, os.getsid(0), 1.0), {})] == ["GPU-10", "GPU-30"]
    assert [d["uuid"] for d in used(own, Wanted("nvidia", 3, os.getsid(0), 1.0), {})] == ["GPU-00", "GPU-10", "GPU-20"]


def test_lines_of_an_observer_become_tracks_of_the_servers_gpus_alone():
    lines = [{"t": t * S, "gpus": [{"power": i} for i in range(4)], "cpu_s": 0.1 * t} for t in (1, 2)]
    lines[1] |= {"server": {"running": 7.0}, "server_t": 2 * S + 5}
    t = telemetry(lines, [FOUR[2]], S)

    assert [(track.device, track.name) for track in t.tracks] == [("GPU-20", "power"), ("server", "running"), ("observer", "cpu")]
    assert (t.at_ns.tolist(), t.value.tolist()) == ([0, S, S + 5, 0, S], [2, 2, 7, 0.1, 0.2])
    assert telemetry([], FOUR, 0) is None


def test_power_that_is_the_mean_of_the_second_before_is_put_in_its_middle():
    lines = [{"t": t * S, "gpus": [{"power": 5.0, "energy": 9.0}], "cpu_s": 0} for t in (1, 2)]
    t = telemetry(lines, [{**FOUR[0]}], S, S // 2)

    assert t.curves("power")["GPU-00"].at_ns.tolist() == [-S // 2, S // 2]
    assert t.curves("energy")["GPU-00"].at_ns.tolist() == [0, S]


def test_a_library_without_the_newer_functions_is_asked_by_the_older_ones():
    class Old(Library):
        def __getattribute__(self, name):
            if name == "nvmlDeviceGetTemperatureV":
                raise AttributeError(name)
            return super().__getattribute__(name)

    (read,) = Nvml(Old(lambda: [{"uuid": A, "name": "x", "power_mw": 1000, "temperature_c": 50}])).read()

    assert (read["power"], read["temperature"]) == (1.0, 50.0)


def test_a_gpu_that_is_lost_from_the_start_costs_no_other():
    class Losing(Library):
        def nvmlDeviceGetUUID(self, h):
            if h == 0:
                raise NVMLError_GpuIsLost("GPU 0 is lost")
            return super().nvmlDeviceGetUUID(h)

    nvml = Nvml(Losing(lambda: [{"uuid": u, "name": "x", "power_mw": w} for u, w in ((A, 1000), (B, 2000))]))

    assert [(d.index, d.uuid) for d in nvml.devices] == [(1, B)]
    assert [read["power"] for read in nvml.read()] == [2.0]


def test_a_source_that_fails_gives_no_old_reading_again():
    turns = iter([[{"uuid": A, "name": "x", "energy_mj": 5000}]] * 3)  # two for the start, one to read
    nvml = Nvml(Library(lambda: next(turns)))

    assert [nvml.read()[0]["energy"] for _ in range(2)] == [5.0, None]


def test_a_partition_without_a_number_costs_no_reading():
    smi = amd.AmdSmiTool(lambda command: [{"gpu": "N/A"}, {"gpu": 0, "uuid": "u", "power": {"socket_power": 5}}])

    assert [read["power"] for read in smi.read()] == [5.0]


def test_a_reading_between_two_windows_serves_both(tmp_path):
    path = tmp_path / "observed.jsonl"
    head = {"devices": [{"index": 0, "uuid": A, "name": "x", "driver": "d", "pids": []}], "why_none": ""}
    lines = [{"t": round(t * S), "gpus": [{"power": 5.0}], "cpu_s": 0} for t in (0, 2.5, 5, 7.5, 10, 12.5, 15, 17.5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *lines]))
    observer = Observer(_Writing(path), path, Wanted("simulated", 1, 0, 2.5))
    first, second = observer.told(1 * S, 9 * S), observer.told(round(11.2 * S), 16 * S)

    assert first.curves("power")[A].covers(0, 8 * S)
    assert second.curves("power")[A].covers(0, round(4.8 * S))


def test_a_rank_that_answers_no_requests_is_read_without_its_key(tmp_path):
    """On another node the port of rank 0 may be somebody else's, who would read the key."""
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        foreign.settimeout(1.0)
        server = Endpoint(f"http://127.0.0.1:{foreign.getsockname()[1]}", "a secret")
        with observing(server, tmp_path, Wanted("none", 0, os.getpid(), 0.05, has_metrics=False)) as observer:
            until(lambda: len((tmp_path / "observed.jsonl").read_text().splitlines()) > 5, "readings")
            assert observer.devices == []
        with pytest.raises(TimeoutError):
            foreign.accept()


def watched(tmp_path, pids):
    """An observer of one GPU of session 100, with these [process, session] at the edges of a window from 1 to 9 s."""
    path = tmp_path / "observed.jsonl"
    head = {"devices": [{"index": 0, "uuid": A, "name": "x", "driver": "d", "pids": [1]}], "why_none": ""}
    lines = [{"t": round(t * S), "gpus": [{"power": 5.0}], "cpu_s": 0, **({"pids": [pids]} if t in (1, 9) else {})} for t in range(11)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *lines]))
    observer = Observer(_Writing(path), path, Wanted("nvidia", 1, 100, 1.0))
    observer.told(1 * S, 9 * S)
    return observer


@pytest.mark.parametrize(("pids", "foreign"), [([[11, 100], [12, 100]], []), ([[11, 100], [99, 7]], [99]), ([[99, 7]], []), ([], [])])
def test_processes_of_others_are_noticed_where_the_servers_own_are_seen(tmp_path, pids, foreign):
    assert watched(tmp_path, pids).foreign(1 * S, 9 * S) == foreign


def test_processes_that_were_there_at_another_time_are_not_of_this_window(tmp_path):
    assert watched(tmp_path, [[11, 100], [99, 7]]).foreign(20 * S, 30 * S) == []


class _Writing:
    """A running process that has written all its output."""

    def __init__(self, path):
        self.path = path

    def poll(self):
        return None
