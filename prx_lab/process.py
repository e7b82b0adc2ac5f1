"""What training asks of its own process: an allocator that keeps its memory, and a stop that waits for the end of a step."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

STOPS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what schedulers and launchers send before they kill


@lru_cache(maxsize=1)  # glibc calls mallopt unsafe beside other threads: once, before most of them begin, and not with every phase
def tune_allocator() -> None:
    """Keep large temporaries mapped between steps: glibc otherwise returns them to the system at every step."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, 1 << 30)
    except OSError:
        pass  # not glibc


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one acts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {number: signal.getsignal(number) for number in STOPS}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def asked(number: int, frame: object) -> None:
        event.set()
        restore()

    for number in STOPS:
        signal.signal(number, asked)
    try:
        yield event
    finally:
        restore()
