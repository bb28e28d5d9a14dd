"""The workshop: names that are safe, uploads in parts, and folders that are made."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import bottega
from bottega.studio.workshop import UPLOAD_SECONDS, Workshop
from making import make_model


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    made = Workshop(tmp_path / "runs", tmp_path / "server", bottega.Deployment())
    made.open()
    made.close()
    return made


@pytest.mark.parametrize("name", ["", "..", ".", "../x", "a/b", ".a", "a\\b", "a\0b", "a" * 256])
def test_names_that_lead_elsewhere_are_refused(workshop: Workshop, name: str) -> None:
    with pytest.raises(bottega.RunError, match="not a name"):
        workshop.run_folder(name)


def test_a_run_gets_the_next_free_name(workshop: Workshop) -> None:
    """Also where the one before it waits for its turn, and has no folder yet."""
    submit = lambda: workshop.submit_run("train", "mine", lambda name, folder: {"run": str(folder)})  # noqa: E731
    assert [submit()[1], submit()[1]] == ["mine-1", "mine-2"]
    (workshop.runs / "mine-3").mkdir(parents=True)
    task, name = submit()
    assert name == "mine-4"
    assert workshop.tasks.document(task)["arguments"] == {"run": str(workshop.runs / "mine-4")}
    assert workshop.run_names() == []


def test_a_data_set_gets_the_next_free_name(workshop: Workshop) -> None:
    assert [workshop.submit_import("rows", {})[1] for _ in range(2)] == ["rows", "rows-2"]


def test_runs_of_the_command_line_are_found_whatever_their_name(workshop: Workshop) -> None:
    assert workshop.run_folder("mio modello è") == workshop.runs / "mio modello è"


def test_a_model_that_cannot_be_opened_leaves_nothing(workshop: Workshop, tmp_path: Path) -> None:
    base, encoder = make_model(tmp_path / "base"), make_model(tmp_path / "bert", "bert")
    workshop.deployment.add("served", base)
    assert workshop.model_source("served") == str(base)
    with pytest.raises(bottega.BottegaError):
        workshop.open_model(str(encoder))
    assert set(workshop.deployment.names) == {"served"}
    workshop.open_model("served")
    workshop.close_model("served")
    assert set(workshop.deployment.names) == {"served"}, "what the server was started with stays"
    workshop.open_model(str(base))
    workshop.close_model(str(base))
    assert set(workshop.deployment.names) == {"served"}
    workshop.deployment.close()


def test_an_upload_is_written_where_its_parts_belong(workshop: Workshop) -> None:
    upload = workshop.begin_upload(10)
    assert workshop.write_part(upload, 0, b"hello ") == 6
    assert workshop.write_part(upload, 6, b"you") == 9
    assert workshop.write_part(upload, 0, b"Hello ") == 9
    assert workshop.upload_path(upload).read_bytes() == b"Hello you"
    with pytest.raises(bottega.DataError, match="more is sent than was announced"):
        workshop.write_part(upload, 9, b"..")
    for name in ("upload-0", "upload-10-0", "../x", f"{upload}x"):
        with pytest.raises(bottega.DataError, match="no such upload"):
            workshop.upload_path(name)


def test_what_nobody_went_on_with_is_removed(workshop: Workshop) -> None:
    old, new = workshop.begin_upload(1), workshop.begin_upload(1)
    long_ago = time.time() - UPLOAD_SECONDS - 1
    os.utime(workshop.upload_path(old), (long_ago, long_ago))
    again = Workshop(workshop.runs, workshop.folder.parent, bottega.Deployment())
    again.open()
    again.close()
    assert [path.name for path in workshop.uploads.iterdir()] == [new]
