"""Many pass at once; whoever closes the gate waits for them and holds the next ones up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Gate"]


class Gate:
    """For the tasks of one event loop. Not re-entrant."""

    def __init__(self) -> None:
        self._state = asyncio.Condition()
        self._inside = 0
        self._shut = False

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Be inside for the block; waits while the gate is closed."""
        async with self._state:
            await self._state.wait_for(lambda: not self._shut)
            self._inside += 1
        try:
            yield
        finally:
            async with self._state:
                self._inside -= 1
                self._state.notify_all()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Have nobody inside for the block."""
        async with self._state:
            await self._state.wait_for(lambda: not self._shut)
            self._shut = True
        try:
            async with self._state:
                await self._state.wait_for(lambda: not self._inside)
            yield
        finally:
            async with self._state:
                self._shut = False
                self._state.notify_all()
