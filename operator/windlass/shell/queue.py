"""A work queue of keys: each key at most once in the queue, and never with two workers.

Handlers and reflectors add keys, workers take them. A key added while it is worked on comes again when
its worker is done. Urgent keys are taken before others, but for every fourth take. Runs in one event loop; from
other threads use `call_soon_threadsafe`. It holds no objects, only keys: whoever takes a key looks at the caches.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_BACK_OFF_SECONDS: Final = 0.5
LONGEST_BACK_OFF_SECONDS: Final = 60.0
JITTER: Final = 0.2
FAIR_SHARE: Final = 4
"""One take in so many goes to a key that is not urgent, so that urgent ones never keep it back for good."""
BUSY_KEYS: Final = 16
"""Keys due or worked on from which the queue counts as busy: half of the workers."""


class QueueObserver(Protocol):
    """Where the queue's numbers go (see `metrics`)."""

    def added(self) -> None:
        """A key became due."""
        ...

    def taken(self, waited_seconds: float) -> None:
        """A worker took a key."""
        ...

    def finished(self, worked_seconds: float) -> None:
        """A worker is done with a key."""
        ...

    def retried(self) -> None:
        """A key was put back after an error."""
        ...


class Silent:
    """A QueueObserver that drops all."""

    def added(self) -> None:
        """Drop it."""

    def taken(self, waited_seconds: float) -> None:
        """Drop it."""

    def finished(self, worked_seconds: float) -> None:
        """Drop it."""

    def retried(self) -> None:
        """Drop it."""


@dataclass(frozen=True, slots=True)
class Closed(Exception):
    """The queue is closed; a worker that gets this ends."""


class KeyedQueue(Generic[Key]):
    """De-duplicating queue with back-off per key and delayed adds."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        observer: QueueObserver | None = None,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock = clock
        self._observer = observer or Silent()
        self._jitter = jitter
        self._first: OrderedDict[Key, None] = OrderedDict()
        self._ready: OrderedDict[Key, None] = OrderedDict()
        self._takes = 0
        self._due: dict[Key, float] = {}
        self._working: dict[Key, float] = {}
        self._again: dict[Key, bool] = {}
        self._failures: dict[Key, int] = {}
        self._later: list[tuple[float, int, Key]] = []
        self._later_at: dict[Key, float] = {}
        self._order = itertools.count()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._alarm: tuple[float, asyncio.TimerHandle] | None = None
        self._calm = asyncio.Event()
        self._calm.set()
        self._closed = False

    # --- adding -------------------------------------------------------------------------------

    def add(self, key: Key, *, urgent: bool = False) -> None:
        """Make a key due now. One that is due already can only become urgent; one that is worked on comes again."""
        if self._closed:
            return
        if key in self._working:
            self._again[key] = urgent or self._again.get(key, False)
            return
        if key in self._due:
            if urgent and key in self._ready:
                del self._ready[key]
                self._first[key] = None
            return
        self._due[key] = self._clock()
        (self._first if urgent else self._ready)[key] = None
        self._look_busy()
        self._observer.added()
        self._wake()

    def add_after(self, key: Key, seconds: float) -> None:
        """Make a key due after `seconds`. Of several such wishes for a key the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        at = self._clock() + seconds
        if self._closed or self._later_at.get(key, float("inf")) <= at:
            return
        self._later_at[key] = at
        heapq.heappush(self._later, (at, next(self._order), key))
        if self._waiting:
            self._set_alarm()

    def retry(self, key: Key) -> float:
        """Put a key back after an error, later each time; return the seconds until it is due."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # The exponent is capped before the power: 2**2000 does not fit into a float.
        pause = min(FIRST_BACK_OFF_SECONDS * 2.0 ** min(failures, 16), LONGEST_BACK_OFF_SECONDS)
        pause *= self._jitter(1 - JITTER, 1 + JITTER)
        self._observer.retried()
        self.add_after(key, pause)
        return pause

    def forget(self, key: Key) -> None:
        """A round succeeded: the next error starts from the shortest back-off."""
        self._failures.pop(key, None)

    # --- taking -------------------------------------------------------------------------------

    def take(self) -> Key | None:
        """The next due key, or None; the caller must call `done` with it."""
        self._promote()
        key = self._next()
        if key is None:
            return None
        now = self._clock()
        self._observer.taken(now - self._due.pop(key))
        self._working[key] = now
        return key

    def _next(self) -> Key | None:
        """The head of the line whose turn it is."""
        self._takes += 1
        lines = (self._first, self._ready) if self._takes % FAIR_SHARE else (self._ready, self._first)
        for line in lines:
            if line:
                return line.popitem(last=False)[0]
        return None

    async def get(self) -> Key:
        """Wait for the next due key; Closed once the queue is closed."""
        while True:
            if self._closed:
                raise Closed
            key = self.take()
            if key is not None:
                return key
            await self._wait()

    def done(self, key: Key) -> None:
        """The worker is done with the key; it comes again if it was added meanwhile."""
        self._observer.finished(self._clock() - self._working.pop(key))
        self._look_busy()
        urgent = self._again.pop(key, None)
        if urgent is not None:
            self.add(key, urgent=urgent)

    def close(self) -> None:
        """Wake all waiting workers with Closed and refuse further keys."""
        self._closed = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        if self._alarm is not None:
            self._alarm[1].cancel()
        self._calm.set()

    # --- waiting ------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Until this worker is woken. Each key that becomes due wakes one of those that wait."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._set_alarm()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                # It was this one's turn, and it goes: the key is the next one's.
                self._wake()
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiter)

    def _wake(self) -> None:
        """Wake the worker that has waited for longest. One that is awake already looks for itself."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _set_alarm(self) -> None:
        """Be called when the first delayed key is due."""
        if not self._later or self._closed:
            return
        at = self._later[0][0]
        if self._alarm is not None:
            if self._alarm[0] <= at:
                return
            self._alarm[1].cancel()
        pause = max(0.0, at - self._clock())
        self._alarm = at, asyncio.get_running_loop().call_later(pause, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._promote()
        if self._waiting:
            self._set_alarm()

    def _promote(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            at, _, key = heapq.heappop(self._later)
            # A later wish for a key that got an earlier one meanwhile is void.
            if self._later_at.get(key) == at:
                del self._later_at[key]
                self.add(key)

    # --- looking ------------------------------------------------------------------------------

    def seconds_until_next(self) -> float | None:
        """Seconds until the first delayed key is due; None if there is none."""
        return max(0.0, self._later[0][0] - self._clock()) if self._later else None

    def __len__(self) -> int:
        """Keys that are due and not yet taken."""
        return len(self._due)

    @property
    def is_busy(self) -> bool:
        """Whether so many keys are due or worked on that what can wait should."""
        return not self._calm.is_set()

    async def calm(self) -> None:
        """Wait until the queue is not busy."""
        await self._calm.wait()

    def _look_busy(self) -> None:
        if len(self._due) + len(self._working) < BUSY_KEYS or self._closed:
            self._calm.set()
        else:
            self._calm.clear()

    def oldest_seconds(self) -> float:
        """Age of the key that has been due or worked on for longest."""
        times = [*self._due.values(), *self._working.values()]
        return self._clock() - min(times) if times else 0.0

    def unfinished_seconds(self) -> float:
        """Sum of the seconds that keys have been worked on by now."""
        now = self._clock()
        return sum(now - began for began in self._working.values())
