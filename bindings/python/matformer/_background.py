"""Long calls that Ctrl-C can end.

Python looks at signals on the main thread between two of its own instructions, so never during a call of the library.
Such a call runs on a helper thread meanwhile, and the caller waits where a signal can reach it.
"""

from __future__ import annotations

import threading
from typing import Callable, List, Optional, TypeVar

R = TypeVar("R")


def wait_through(done: threading.Event) -> Optional[KeyboardInterrupt]:
    """Waits for the end of what was told to end; returns the Ctrl-C that came meanwhile."""
    interrupt: Optional[KeyboardInterrupt] = None
    while True:
        try:
            done.wait()
            return interrupt
        except KeyboardInterrupt as again:
            interrupt = again


def call_interruptibly(call: Callable[[], R], interrupt: Callable[[], None],
                       poll: Optional[Callable[[], None]] = None, poll_seconds: Optional[float] = None) -> R:
    """`call()` on a helper thread, and `poll()` on this one every `poll_seconds` meanwhile. An exception here, a
    KeyboardInterrupt or one from `poll`, calls `interrupt()`, waits for the call to end, and goes on upwards."""
    done, gate = threading.Event(), threading.Lock()
    results: List[R] = []
    failures: List[BaseException] = []
    begun, is_wanted = [False], [True]

    def run() -> None:
        with gate:
            if not is_wanted[0]:
                return
            begun[0] = True
        try:
            results.append(call())
        except BaseException as failure:  # goes to the caller
            failures.append(failure)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="matformer-call", daemon=True)
    try:
        thread.start()  # a Ctrl-C may come while it starts: then the call must not run on, or not begin
        while not done.wait(poll_seconds if poll is not None else None):
            if poll is not None:
                poll()
    except BaseException:
        with gate:
            is_wanted[0] = False
        if begun[0]:
            interrupt()
            wait_through(done)
        raise
    if failures:
        raise failures[0]
    return results[0]
