"""Teams of virtual ranks: threads of this process."""
from __future__ import annotations

import ctypes as c
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence

from . import _abi
from ._device import Device, Handle
from ._library import ABORTED, Error, lib


class Team(Handle):
    """One rank's membership. Made by :func:`teams` or :func:`launch`.

    Collective calls must be made by every rank in the same order, one thread at a time per team.
    """

    def __init__(self, device: Device, raw: int) -> None:
        super().__init__(device)
        self.device = device
        self._raw = raw
        self._offered = 0   # bytes, by allgather_begin

    def _destroy(self, raw: int) -> None:
        lib.epg_team_destroy(raw)

    @property
    def rank(self) -> int:
        return int(lib.epg_team_rank(self.raw))

    @property
    def size(self) -> int:
        return int(lib.epg_team_size(self.raw))

    def barrier(self) -> None:
        """Waits for every rank. Error: ``EPG_ERR_TIMEOUT`` names those that did not come, ``EPG_ERR_ABORTED`` who
        aborted and why."""
        lib.epg_team_barrier(self.raw)

    def allgather(self, data: bytes) -> List[bytes]:
        """Every rank's `data`, in rank order. Error: ``EPG_ERR_MISMATCH`` if the lengths differ."""
        out = c.create_string_buffer(max(1, len(data) * self.size))
        lib.epg_team_allgather(self.raw, data, len(data), out)
        return [out.raw[rank * len(data):(rank + 1) * len(data)] for rank in range(self.size)]

    def allgather_begin(self, data: bytes) -> None:
        """The first half of ``allgather``: `data` is offered at once, without waiting. One may be open at a time."""
        lib.epg_team_allgather_begin(self.raw, data, len(data))
        self._offered = len(data)

    def allgather_end(self) -> List[bytes]:
        """The second half: waits for the others. After ``EPG_ERR_TIMEOUT`` it may be called again, once the missing
        ranks are retired; theirs are zeros then."""
        size = self._offered
        out = c.create_string_buffer(max(1, size * self.size))
        lib.epg_team_allgather_end(self.raw, out)
        return [out.raw[rank * size:(rank + 1) * size] for rank in range(self.size)]

    def retire(self, rank: int) -> None:
        """`rank` is gone for good: its thread has ended, and none of its work runs or will run. Collective calls do not
        wait for it any more."""
        lib.epg_team_retire(self.raw, rank)

    def rejoin(self, rank: int) -> "Team":
        """A membership on the place of `rank`, which was retired, of its next incarnation."""
        raw = c.c_void_p()
        lib.epg_team_rejoin(self.raw, rank, c.byref(raw))
        return Team(self.device, raw.value)  # type: ignore[arg-type]

    @property
    def incarnation(self) -> int:
        """0 in a rank's first life."""
        return int(lib.epg_team_incarnation(self.raw))

    @property
    def transport(self) -> str:
        return str(lib.epg_team_transport(self.raw).decode())

    def abort(self, reason: str) -> None:
        """Wakes every rank from every wait; their calls fail with ``EPG_ERR_ABORTED`` and the first reason given."""
        lib.epg_team_abort(self.raw, reason.encode())

    def stats(self) -> Dict[str, int]:
        """``barriers`` and ``allgathers`` of this rank."""
        stats = _abi.init(_abi.TeamStats)
        lib.epg_team_get_stats(self.raw, c.byref(stats))
        return _abi.values(stats)


def teams(device: Device, ranks: int, timeout_ms: int = 0) -> List[Team]:
    """`ranks` virtual ranks on `device`, each to be used by a thread of its own.

    Args:
        timeout_ms: bound of a collective call; 0: the setting ``EPGRAPH_TIMEOUT_MS``.
    """
    raws = (c.c_void_p * max(1, ranks))()
    options = _abi.init(_abi.TeamOptions, timeout_ms=timeout_ms)
    lib.epg_team_create_threads(device.raw, c.byref(options), ranks, raws)
    return [Team(device, raw) for raw in raws if raw is not None]


class _Crew:
    """The threads of one launch, and what came of them."""

    def __init__(self, members: List[Team], fn: Callable[..., Any], args: Sequence[Any]) -> None:
        self.members, self.fn, self.args = members, fn, args
        self.results: List[Any] = [None] * len(members)
        self.begun, self.cancelled, self.ended = False, False, threading.Event()
        self.lock = threading.Lock()            # of the first two, and of raised
        self.raised: List[BaseException] = []   # in the order of time

    def run_rank(self, rank: int) -> None:
        team = self.members[rank]
        try:
            self.results[rank] = self.fn(team, *self.args)
        except BaseException as error:
            with self.lock:
                self.raised.append(error)
            self.abort(f"rank {rank} raised {type(error).__name__}: {error}")

    def run_all(self) -> None:
        with self.lock:
            if self.cancelled:
                return
            self.begun = True
        threads = [threading.Thread(target=self.run_rank, args=(rank,), name=f"epgraph rank {rank}")
                   for rank in range(len(self.members))]
        started = []
        try:
            for thread in threads:
                thread.start()
                started.append(thread)
        except BaseException as error:  # no more threads to be had
            self.raised.append(error)
            self.abort(f"{type(error).__name__}: {error}")
        for thread in started:
            thread.join()
        self.ended.set()

    def abort(self, reason: str) -> None:
        """One call wakes all of them; a rank may have closed its own team."""
        for team in self.members:
            try:
                return team.abort(reason)
            except ValueError:  # closed
                pass

    def run(self) -> None:
        """By a thread of its own, which Ctrl-C does not interrupt: a start or a join that it interrupts does not know
        afterwards whether its thread runs."""
        thread = threading.Thread(target=self.run_all, name="epgraph launch")
        try:
            thread.start()
            self.ended.wait()
        except BaseException as error:
            self.stop(f"{type(error).__name__} in the thread that launched the ranks")
            raise

    def stop(self, reason: str) -> None:
        """Starts no rank any more, and returns once none runs: what they use is closed then. Another Ctrl-C meanwhile
        only wakes them again."""
        with self.lock:
            self.cancelled, running = True, self.begun
        while running and not self.ended.is_set():
            try:
                self.abort(reason)
                self.ended.wait()
            except KeyboardInterrupt:
                pass

    def first_cause(self) -> Optional[BaseException]:
        for error in self.raised:
            if not (isinstance(error, Error) and error.code == ABORTED):
                return error
        return self.raised[0] if self.raised else None


def launch(fn: Callable[..., Any], ranks: int, *args: Any, device: Optional[Device] = None,
           timeout_ms: int = 0) -> List[Any]:
    """Runs ``fn(team, *args)`` on `ranks` virtual ranks, a thread each, and waits for all.

    A rank that raises aborts the team, so that no peer waits for it; so does Ctrl-C, which comes out once every rank has
    ended. Everything that was made from the teams (groups, and their runners) is closed at the end, so views that a
    rank returns are dead; without `device`, a host device is made for the call and closed as well.

    Returns:
        What each rank returned, in rank order.

    Raises:
        BaseException: the first that a rank raised, other than the ``EPG_ERR_ABORTED`` that followed from it.
    """
    own = device is None
    used = Device() if device is None else device
    try:
        crew = _Crew(teams(used, ranks, timeout_ms), fn, args)
        try:
            crew.run()
        finally:
            for team in crew.members:
                team.close()
        cause = crew.first_cause()
        if cause is not None:
            raise cause
        return crew.results
    finally:
        if own:
            used.close()
