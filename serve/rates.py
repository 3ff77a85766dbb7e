"""How often a key may call: a token bucket per key (Turner 1986, "New directions in communications")."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Rates"]

_MOST = 10_000


class Rates:
    """`rate` requests per second for each name, `burst` at once; a rate of 0 lets everything through.

    Not safe across threads: the event loop alone uses it.
    """

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name → (tokens, when)

    def wait(self, name: str) -> int:
        """0 if a request may pass now, which is then counted; else the seconds after which one may, rounded up."""
        if self._rate == 0:
            return 0
        now = self._clock()
        tokens, since = self._left.pop(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        passes = tokens >= 1.0
        self._left[name] = (tokens - 1.0 if passes else tokens, now)
        while len(self._left) > _MOST:
            self._left.popitem(last=False)
        return 0 if passes else max(1, math.ceil((1.0 - tokens) / self._rate))
