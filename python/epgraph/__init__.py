"""epgraph: expert-parallel dispatch and combine inside captured graphs, from Python.

ctypes over libepgraph.so; no compiled extension. numpy is optional, and needed by ``Group.run_experts``. Importing the
package loads the library (see README) and compares the structs' layouts with it; ``LibraryError`` says what is wrong.

One MoE exchange on two virtual ranks::

    def rank(team):
        group = epgraph.Group(team, experts=4, hidden=8, topk=2, max_tokens=16)
        with team.device.stream() as stream:
            view = group.dispatch(rows, topk_ids, topk_weights, stream=stream)
            outputs = group.run_experts(view, lambda expert, x: x * (expert + 1), stream=stream)
            out = group.combine(outputs, stream=stream)
            stream.synchronize()
            group.check()
            return out

    results = epgraph.launch(rank, 2)
"""
from ._device import Device, Stream
from ._dlpack import Memory
from ._experts import Experts
from ._group import Group, plan_bytes
from ._library import Error, LibraryError, VERSION as __version__
from ._runner import Runner, StepCall, eager
from ._scope import ForeignRuntime, Runtime, ScopeTable, scope, verify_scope
from ._settings import settings
from ._step import Admission, Member, Plan, Stepper, step_plan
from ._team import Team, launch, teams
from ._view import View

__all__ = ["Admission", "Device", "Error", "Experts", "ForeignRuntime", "Group", "LibraryError", "Member", "Memory",
           "Plan", "Runner", "Runtime", "ScopeTable", "StepCall", "Stepper", "Stream", "Team", "View", "eager",
           "launch", "plan_bytes", "scope", "settings", "step_plan", "teams", "verify_scope", "__version__"]
