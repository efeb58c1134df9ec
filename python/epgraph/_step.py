"""The step coordinator: what each rank runs this step, where some prefill and others decode."""
from __future__ import annotations

import ctypes as c
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import _abi
from ._device import Handle
from ._library import lib
from ._team import Team

POLICIES = {"mixed": 0, "one_phase": 1}
PHASES = ("idle", "decode", "prefill")
MODES = ("auto", "ll", "ht")
MEMBERS = ("gone", "stays", "joins")


class Plan(NamedTuple):
    """What one rank runs in a step.

    Attributes:
        phase: ``"idle"`` (replay the smallest bucket with no tokens), ``"decode"`` or ``"prefill"``.
        mode: ``"ll"`` or ``"ht"``, for ``dispatch``.
        tokens, bucket: ints; of prefill the bucket is the tokens.
        pairs: for each lane, the same on every rank: the most any rank wants.
        join_epochs: where ranks join: each lane's first epoch after this step, at which they take part.
        join_ranks: how many ask to take part again.
        stop: every live rank asked for it.
        error, error_rank: the first rank's error, in rank order, an ``epg_status``; 0: none.
        incarnation: of the rank whose plan this is.
        alive: whether that rank answered.
        join: whether it is one of join_ranks.
    """

    phase: str
    mode: str
    tokens: int
    bucket: int
    pairs: Tuple[int, ...]
    join_epochs: Tuple[int, ...]
    join_ranks: int
    stop: bool
    error: int
    error_rank: int
    incarnation: int
    alive: bool
    join: bool


class Member(NamedTuple):
    """One rank in an admission: its incarnation, and ``"gone"``, ``"stays"`` or ``"joins"``."""

    incarnation: int
    state: str


class Admission(NamedTuple):
    """Who takes part from which epochs on; the same on every rank. For ``Group.admit``.

    Attributes:
        members: in rank order.
        epochs: for each lane the first epoch of those that join.
    """

    members: Tuple[Member, ...]
    epochs: Tuple[int, ...]

    def _as_c(self) -> Tuple[Any, Any]:
        """The struct, and what it points to."""
        members = (_abi.Member * max(1, len(self.members)))(
            *[_abi.Member(member.incarnation, MEMBERS.index(member.state)) for member in self.members])
        epochs = (c.c_uint32 * max(1, len(self.epochs)))(*self.epochs)
        return _abi.init(_abi.Admission, ranks=len(self.members), members=c.addressof(members),
                         epochs=c.addressof(epochs)), (members, epochs)


def _config(lanes: int, buckets: Sequence[int], policy: str, chunk: int, prefill_burst: int, ll_max_tokens: int,
            mode: str) -> Tuple[Any, Any]:
    for name, value, table in (("policy", policy, tuple(POLICIES)), ("mode", mode, MODES)):
        if value not in table:
            raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(table)}")
    listed = (c.c_uint32 * max(1, len(buckets)))(*buckets)
    return _abi.init(_abi.StepConfig, policy=POLICIES[policy], chunk=chunk, prefill_burst=prefill_burst,
                     ll_max_tokens=ll_max_tokens, mode=MODES.index(mode), buckets=c.addressof(listed),
                     bucket_count=len(buckets), lanes=lanes), listed


def _report(lanes: int, *, prefill_tokens: int = 0, decode_tokens: int = 0, spec_tokens: int = 0,
            prefill_streak: int = 0, pairs: Sequence[int] = (), epochs: Sequence[int] = (), stop: bool = False,
            error: int = 0, join: bool = False, incarnation: int = 0) -> Any:
    for name, listed in (("pairs", pairs), ("epochs", epochs)):
        if len(listed) not in (0, lanes):
            raise ValueError(f"{name} has {len(listed)} entries, one for each of {lanes} lanes is wanted")
    report = _abi.StepReport(prefill_tokens=prefill_tokens, decode_tokens=decode_tokens, spec_tokens=spec_tokens,
                             prefill_streak=prefill_streak, stop=int(stop), error=error, join=int(join), alive=1,
                             incarnation=incarnation)
    report.pairs[:len(pairs)], report.epochs[:len(epochs)] = pairs, epochs
    return report


def _plan(raw: Any, lanes: int) -> Plan:
    return Plan(PHASES[raw.phase], MODES[raw.mode], raw.tokens, raw.bucket, tuple(raw.pairs[:lanes]),
                tuple(raw.join_epochs[:lanes]), raw.join_ranks, bool(raw.stop), raw.error, raw.error_rank,
                raw.incarnation, bool(raw.alive), bool(raw.join))


def step_plan(reports: Sequence[Dict[str, Any]], *, buckets: Sequence[int], lanes: int = 1, policy: str = "mixed",
              chunk: int = 256, prefill_burst: int = 2, ll_max_tokens: int = 128, mode: str = "auto") -> List[Plan]:
    """Every rank's plan from every rank's report, without any exchange: the pure function behind :class:`Stepper`.

    Args:
        reports: for each rank the arguments of ``Stepper.begin``, and `incarnation`.
        buckets, lanes, ...: as in :class:`Stepper`.

    Raises:
        Error: ``EPG_ERR_INVALID`` names a bad value.
    """
    config, held = _config(lanes, buckets, policy, chunk, prefill_burst, ll_max_tokens, mode)
    listed = (_abi.StepReport * max(1, len(reports)))(*[_report(lanes, **report) for report in reports])
    plans = (_abi.StepPlan * max(1, len(reports)))()
    lib.epg_step_plan_all(c.byref(config), listed, len(reports), plans)
    del held
    return [_plan(plan, lanes) for plan in plans[:len(reports)]]


class Stepper(Handle):
    """Agrees with the team's other ranks on the number of pairs per lane of each step, and plans this rank's.

    Args:
        team: the rank's membership.
        buckets: ascending; decode is padded up to one of them.
        lanes: 1..8.
        policy: ``"mixed"`` (each rank runs what it has) or ``"one_phase"`` (while any prefills, none decodes).
        chunk: most prefill tokens of a rank in one step.
        prefill_burst: prefill steps in a row while the same rank has tokens to decode.
        ll_max_tokens: automatic mode: low-latency up to this many tokens.
        mode: ``"auto"``, or ``"ll"`` or ``"ht"`` for all.

    Raises:
        Error: ``EPG_ERR_INVALID`` names a bad value.
    """

    def __init__(self, team: Team, *, buckets: Sequence[int], lanes: int = 1, policy: str = "mixed", chunk: int = 256,
                 prefill_burst: int = 2, ll_max_tokens: int = 128, mode: str = "auto") -> None:
        super().__init__(team)
        self.team, self.lanes = team, lanes
        self._joining = -1  # nothing is planned
        config, _ = _config(lanes, buckets, policy, chunk, prefill_burst, ll_max_tokens, mode)
        raw = c.c_void_p()
        lib.epg_stepper_create(team.raw, c.byref(config), c.byref(raw))
        self._raw = raw.value

    def _destroy(self, raw: int) -> None:
        lib.epg_stepper_destroy(raw)

    def begin(self, *, prefill_tokens: int = 0, decode_tokens: int = 0, spec_tokens: int = 0, prefill_streak: int = 0,
              pairs: Sequence[int] = (), epochs: Sequence[int] = (), stop: bool = False, error: int = 0,
              join: bool = False) -> None:
        """Offers this rank's report at once, without waiting.

        Args:
            prefill_tokens: prompt tokens that wait.
            decode_tokens: sequences that need their next token; spec_tokens: speculative ones beside each.
            prefill_streak: prefill steps in a row that this rank ran up to now.
            pairs: wanted in each lane of a step.
            epochs: pairs enqueued so far in each lane.
            stop: nothing is left to do, and none will come. error: an ``epg_status`` that ends the run.
            join: this rank asks to take part again.
        """
        report = _report(self.lanes, prefill_tokens=prefill_tokens, decode_tokens=decode_tokens,
                         spec_tokens=spec_tokens, prefill_streak=prefill_streak, pairs=pairs, epochs=epochs, stop=stop,
                         error=error, join=join)
        lib.epg_stepper_begin(self.raw, c.byref(report))

    def end(self) -> Tuple[Plan, List[Plan]]:
        """Waits for the others' reports.

        Returns:
            This rank's plan, and every rank's.

        Raises:
            Error: ``EPG_ERR_TIMEOUT`` names the ranks that did not report; the exchange is still open: retire them
                (``Team.retire``) and call it again.
        """
        mine, everyone = _abi.StepPlan(), (_abi.StepPlan * self.team.size)()
        lib.epg_stepper_end(self.raw, c.byref(mine), everyone)
        self._joining = mine.join_ranks
        return _plan(mine, self.lanes), [_plan(plan, self.lanes) for plan in everyone]

    def admission(self) -> Optional[Admission]:
        """What the last plans say to ``Group.admit``; None if no rank joins. Error: ``EPG_ERR_STATE`` before the first.
        """
        if self._joining == 0:
            return None
        told = _abi.init(_abi.Admission)
        lib.epg_stepper_admission(self.raw, c.byref(told))
        members = (_abi.Member * told.ranks).from_address(told.members)
        epochs = (c.c_uint32 * self.lanes).from_address(told.epochs)
        return Admission(tuple(Member(each.incarnation, MEMBERS[each.state]) for each in members), tuple(epochs))
