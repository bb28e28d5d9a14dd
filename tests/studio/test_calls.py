"""What all routes of the studio need."""

from __future__ import annotations

import asyncio
import threading

from bottega.studio.calls import in_thread


def test_work_is_done_off_the_event_loop() -> None:
    loop = threading.get_ident()
    assert asyncio.run(in_thread(threading.get_ident)) != loop
