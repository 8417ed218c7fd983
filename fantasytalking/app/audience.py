"""Knows who still waits for a video, and who may ask for one."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fantasytalking.common.errors import ErrorCode, InputError

MAX_JOBS = 9
"""Jobs in total: one that runs and eight that wait. Further ones are refused."""
MAX_JOBS_PER_CLIENT = 3
"""Jobs of one client address."""
UNHEARD_SECONDS = 20.0
"""A job ends once nobody has listened to it for this time: time to connect, and to connect again."""


class Audience:
    """Counts the open event streams of every session. Used from the server's event loop alone."""

    def __init__(self) -> None:
        self._streams: Counter[str] = Counter()

    @contextmanager
    def listening(self, session: str) -> Iterator[None]:
        """Counts a stream of the session while the block runs."""
        self._streams[session] += 1
        try:
            yield
        finally:
            self._streams[session] -= 1
            if not self._streams[session]:
                del self._streams[session]

    def is_listened_to(self, session: str) -> bool:
        """Whether a client listens to the session."""
        return session in self._streams


class Ticket:
    """The place of one job in the queue."""

    def __init__(self, client: str) -> None:
        self.client = client
        self._last_heard = time.monotonic()

    def is_unheard(self, is_heard: bool) -> bool:
        """Whether nobody has listened for `UNHEARD_SECONDS`; `is_heard`: whether somebody does now."""
        if is_heard:
            self._last_heard = time.monotonic()
        return time.monotonic() - self._last_heard > UNHEARD_SECONDS


class JobQueue:
    """The jobs that run or wait, in their order; the first one runs. Used from the server's event loop alone."""

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []

    @contextmanager
    def entered(self, client: str) -> Iterator[Ticket]:
        """Gives a job a place in the queue while the block runs.

        Raises:
            InputError: the queue is full, or the client has `MAX_JOBS_PER_CLIENT` jobs in it.
        """
        own = sum(ticket.client == client for ticket in self._tickets)
        if own >= MAX_JOBS_PER_CLIENT:
            raise InputError(
                f"{own} videos of yours are in the queue; up to {MAX_JOBS_PER_CLIENT} can be: wait for one, or stop it",
                code=ErrorCode.insufficient_resources,
                value=own,
            )
        if len(self._tickets) >= MAX_JOBS:
            raise InputError(
                f"{len(self._tickets)} videos are in the queue; up to {MAX_JOBS} can be: try again later",
                code=ErrorCode.insufficient_resources,
                value=len(self._tickets),
            )
        ticket = Ticket(client)
        self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            self._tickets.remove(ticket)

    def ahead(self, ticket: Ticket) -> int:
        """Returns the number of jobs before this one; 0: it is its turn."""
        return self._tickets.index(ticket)
