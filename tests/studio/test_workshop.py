"""The workshop: names that are safe, uploads in parts, and folders that are made."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import bottega
from bottega.studio.workshop import UPLOAD_SECONDS, Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    made = Workshop(tmp_path / "runs", tmp_path / "server")
    made.open()
    made.close()
    return made


@pytest.mark.parametrize("name", ["", "..", ".", "../x", "a/b", "a" * 81, "-a", "a b"])
def test_names_that_lead_elsewhere_are_refused(workshop: Workshop, name: str) -> None:
    with pytest.raises(bottega.RunError, match="not a name"):
        workshop.run_folder(name)


def test_a_run_gets_the_next_free_name(workshop: Workshop) -> None:
    assert workshop.free_run_name("mine") == "mine-1"
    (workshop.runs / "mine-1").mkdir(parents=True)
    assert workshop.free_run_name("mine") == "mine-2"
    assert workshop.run_names() == []


def test_an_upload_is_written_where_its_parts_belong(workshop: Workshop) -> None:
    upload = workshop.begin_upload(10)
    assert workshop.write_part(upload, 0, b"hello ") == 6
    assert workshop.write_part(upload, 6, b"you") == 9
    assert workshop.write_part(upload, 0, b"Hello ") == 9
    assert workshop.upload_path(upload).read_bytes() == b"Hello you"
    for name in ("upload-0", "../x", f"{upload}x"):
        with pytest.raises(bottega.DataError, match="no such upload"):
            workshop.upload_path(name)


def test_what_nobody_went_on_with_is_removed(workshop: Workshop) -> None:
    old, new = workshop.begin_upload(1), workshop.begin_upload(1)
    long_ago = time.time() - UPLOAD_SECONDS - 1
    os.utime(workshop.upload_path(old), (long_ago, long_ago))
    again = Workshop(workshop.runs, workshop.folder.parent)
    again.open()
    again.close()
    assert [path.name for path in workshop.uploads.iterdir()] == [new]
