"""Ctrl-C and SIGTERM: the first asks to save and leave, the second leaves at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Stop:
    """Why to stop, once somebody asked."""

    def __init__(self) -> None:
        self.why = ""


@contextlib.contextmanager
def listening(say: Any) -> Iterator[Stop]:
    """Turn signals into `Stop.why`; a second one raises KeyboardInterrupt. Only the main thread of a process can listen."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.why:
            raise KeyboardInterrupt
        stop.why = signal.Signals(number).name
        say(f"{stop.why}: this step is finished, a checkpoint saved, then the run stops; once more leaves at once")

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
