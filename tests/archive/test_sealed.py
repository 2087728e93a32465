"""Damage is found before libhdf5 reads it, and any HDF5 program can still read the file."""

import errno

import h5py
import pytest
from conftest import measured, reseal
from hypothesis import given, settings
from hypothesis import strategies as st

from glm5bench import files
from glm5bench.archive.collection import collect
from glm5bench.archive.pointfile import read_point, write_point
from glm5bench.archive.sealed import BLOCK
from glm5bench.archive.union import merge
from glm5bench.archive.writer import refuse_to_overwrite
from glm5bench.errors import EnvironmentLacks, FileError, UsageError
from glm5bench.files import Taken


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("sealed") / "p.h5"
    write_point(path, measured())
    return path


def test_any_hdf5_program_reads_a_sealed_file(written):
    with h5py.File(written, "r") as file:
        assert file.attrs["key"] == "a" * 20
        assert file["requests"].dtype.names[1] == "sent_ns"
        assert file["requests"].attrs["unit"][1].startswith("ns")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found_and_said(written, tmp_path_factory, data):
    content = bytearray(written.read_bytes())
    at = data.draw(st.integers(BLOCK, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "p.h5"
    path.write_bytes(content)

    with pytest.raises(FileError, match="damaged"):
        read_point(path)


@pytest.mark.parametrize("length", [0, 1, 100, BLOCK, BLOCK + 1, 5000])
def test_a_truncated_file_is_an_error(written, tmp_path, length):
    (tmp_path / "p.h5").write_bytes(written.read_bytes()[:length])

    with pytest.raises(FileError):
        read_point(tmp_path / "p.h5")


def test_two_measurements_never_take_one_attempt_s_place(written):
    with pytest.raises(Taken):
        write_point(written, measured("b" * 20))

    assert read_point(written)[0].key == "a" * 20


def test_a_full_disk_is_said_with_what_to_do_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(EnvironmentLacks, match="No space left") as lacks:
        write_point(tmp_path / "p.h5", measured())

    assert "free space" in lacks.value.next_step
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["link", "external", "virtual"])
def test_data_that_stands_in_another_file_is_refused(tmp_path, change):
    path, secret = tmp_path / "p.h5", tmp_path / "secret"
    write_point(path, measured())
    secret.write_bytes(b'{"x": 1}')
    with h5py.File(path, "r+") as file:
        del file["records"]
        if change == "link":
            file["records"] = h5py.ExternalLink(str(secret), "/")
        elif change == "external":
            file.create_dataset("records", shape=(8,), dtype="u1", external=[(str(secret), 0, 8)])
        else:
            layout = h5py.VirtualLayout(shape=(8,), dtype="u1")
            layout[:] = h5py.VirtualSource(str(secret), "x", shape=(8,))
            file.create_virtual_dataset("records", layout)
    reseal(path)

    assert [e.path for e in collect([str(path)]).bad] == [str(path)]


@pytest.mark.parametrize("point", [{"gpus": 0}, {"tp": "many"}, {"concurrency": "few"}, {"isl_tokens": []}], ids=str)
def test_a_point_that_garbles_a_field_is_bad_and_loses_no_other(tmp_path, point):
    write_point(tmp_path / "bad.h5", measured(**point))
    write_point(tmp_path / "good.h5", measured("b" * 20))

    found = collect([str(tmp_path)])

    assert (len(found.rows), [e.path for e in found.bad]) == (1, [str(tmp_path / "bad.h5")])


def test_a_measured_point_without_times_is_no_point(tmp_path):
    import dataclasses

    m = dataclasses.replace(measured(), requests=None, stated={"total_tput_per_gpu_tok_s": 9999.0})
    write_point(tmp_path / "p.h5", m)

    assert "contains no times" in collect([str(tmp_path)]).bad[0].message


@pytest.mark.parametrize("what", ["text", "foreign", "point", "directory", "damaged"])
def test_what_is_no_archive_is_never_overwritten(tmp_path, what):
    path = tmp_path / "all.h5"
    if what == "text":
        path.write_text("precious")
    elif what == "foreign":
        h5py.File(path, "w").close()
    elif what == "point":
        write_point(path, measured())
    elif what == "directory":
        path.mkdir()
    else:
        merge(["published"], path)
        path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(UsageError, match="is not overwritten"):
        refuse_to_overwrite(path)
