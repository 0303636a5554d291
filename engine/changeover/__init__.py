"""Replace a live ML model by its next version without losing a request, inside your own Python process."""

from changeover import errors, plugin
from changeover.core.messages import Acquire as Acquire
from changeover.core.messages import Release as Release
from changeover.core.operations import Aftermath as Aftermath
from changeover.core.operations import Member as Member
from changeover.core.operations import Recovered as Recovered
from changeover.core.operations import Recovering as Recovering
from changeover.core.operations import RecoveryReport as RecoveryReport
from changeover.core.operations import Sample as Sample
from changeover.core.operations import SetAside as SetAside
from changeover.core.operations import ShadowReport as ShadowReport
from changeover.core.operations import StepRecord as StepRecord
from changeover.core.operations import SwapOperation as SwapOperation
from changeover.core.operations import Verdict as Verdict
from changeover.core.policy import ModelPolicy as ModelPolicy
from changeover.core.shift import Guard as Guard
from changeover.core.shift import Shift as Shift
from changeover.core.shift import Stage as Stage
from changeover.core.snapshots import Audit as Audit
from changeover.core.snapshots import Balance as Balance
from changeover.core.snapshots import DrainOutcome as DrainOutcome
from changeover.core.snapshots import Event as Event
from changeover.core.snapshots import EventsDropped as EventsDropped
from changeover.core.snapshots import Holder as Holder
from changeover.core.snapshots import ReferenceStatistics as ReferenceStatistics
from changeover.core.snapshots import Reply as Reply
from changeover.core.snapshots import Statistics as Statistics
from changeover.core.snapshots import VersionLoadInfo as VersionLoadInfo
from changeover.core.snapshots import VersionStatistics as VersionStatistics
from changeover.core.snapshots import WaitOutcome as WaitOutcome
from changeover.core.values import Batching as Batching
from changeover.core.values import Drain as Drain
from changeover.core.values import SwapState as SwapState
from changeover.core.values import Timeouts as Timeouts
from changeover.core.values import VersionKey as VersionKey
from changeover.core.values import VersionSpec as VersionSpec
from changeover.core.values import VersionState as VersionState
from changeover.runtime.calls import Engine as Engine
from changeover.runtime.engine import open_engine as open_engine
from changeover.runtime.events import Events as Events
from changeover.runtime.lease import Lease as Lease
from changeover.runtime.many import Leases as Leases
from changeover.runtime.references import ReferenceTracker as ReferenceTracker
from changeover.runtime.references import RequestTracker as RequestTracker
from changeover.signals import drain_on_sigterm as drain_on_sigterm

__all__ = [
    "Acquire",
    "Aftermath",
    "Audit",
    "Balance",
    "Batching",
    "Drain",
    "DrainOutcome",
    "Engine",
    "Event",
    "Events",
    "EventsDropped",
    "Guard",
    "Holder",
    "Lease",
    "Leases",
    "Member",
    "ModelPolicy",
    "Recovered",
    "Recovering",
    "RecoveryReport",
    "ReferenceStatistics",
    "ReferenceTracker",
    "Release",
    "Reply",
    "RequestTracker",
    "Sample",
    "SetAside",
    "ShadowReport",
    "Shift",
    "Stage",
    "Statistics",
    "StepRecord",
    "SwapOperation",
    "SwapState",
    "Timeouts",
    "Verdict",
    "VersionKey",
    "VersionLoadInfo",
    "VersionSpec",
    "VersionState",
    "VersionStatistics",
    "WaitOutcome",
    "drain_on_sigterm",
    "errors",
    "open_engine",
    "plugin",
]
