"""Makes what all interfaces share what it should be: the firewall, and the namespace's settings.

Without netlink, so that at a boot the firewall can be on its way while netlink is loaded.
"""

import logging
from collections.abc import Mapping

from amphora_agent.errors import OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.namespace import Namespace
from amphora_agent.network import sysctl
from amphora_agent.network.plan import shared
from amphora_agent.network.plan.diff import SetSysctl
from amphora_agent.network.plan.firewall_rules import FAMILY, TABLE, Ruleset, listed, transaction
from amphora_agent.network.plan.shared import (
    SetFirewall,
    SharedOp,
    SharedState,
    diff_shared,
    missing_settings,
)
from amphora_agent.supervisor.command import run

logger = logging.getLogger(__name__)

#: Seconds. The largest ruleset takes a tenth of one.
_TIMEOUT = 30.0
#: Characters. A rule with long addresses takes 120, and an interface may have 10,000.
_MOST_LISTING = 64 * 1024 * 1024


class Nftables:
    """The amphora's table in the packet filter of `namespace`, which exists."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def current(self) -> Ruleset | None:
        """What the table is now; None when there is none, or none that can be made out: both are
        to be replaced.

        Raises:
            OperationFailed: nft cannot be run.
        """
        listing = ["nft", "--json", "--numeric", "list", "table", FAMILY, TABLE]
        answer = self._namespace.run(
            lambda: run(listing, timeout=_TIMEOUT, most_output=_MOST_LISTING)
        )
        if not answer.succeeded:
            logger.debug("nft lists no table: %s", answer.output)
            return None
        try:
            return listed(answer.output)
        except ValueError as error:
            logger.warning("nft lists what cannot be read: %s", error)
            return None

    def replace(self, ruleset: Ruleset) -> None:
        """Make the table this one, at one instant. Other tables stay as they are.

        Raises:
            OperationFailed: nft cannot be run, or it refuses; the table is as it was.
        """
        applying = ["nft", "--json", "--file", "-"]
        answer = self._namespace.run(
            lambda: run(applying, timeout=_TIMEOUT, input=transaction(ruleset))
        )
        if not answer.succeeded:
            raise OperationFailed("The firewall is refused", answer.output.strip())


class Shared:
    """What the interfaces of `namespace` share. It exists.

    A setting that the load balancers can do without, and that the kernel lacks or refuses, is an
    alarm.
    """

    def __init__(self, namespace: Namespace, alarms: Alarms) -> None:
        self._namespace = namespace
        self._alarms = alarms
        self._firewall = Nftables(namespace)

    def ops(self, ruleset: Ruleset | None) -> tuple[SharedOp, ...]:
        """What `apply` would do, as far as one look tells."""
        current = self._firewall.current() if ruleset is not None else None
        return diff_shared(ruleset, self._state(current))

    def apply(self, ruleset: Ruleset | None, *, fresh: bool = False) -> None:
        """Make what all interfaces share what it should be, with this ruleset.

        Args:
            ruleset: None leaves the firewall alone.
            fresh: there is no ruleset yet.

        Raises:
            OperationFailed: the kernel refuses; the earlier ruleset stays.
        """
        current = None if fresh or ruleset is None else self._firewall.current()
        done: set[SharedOp] = set()
        refused: dict[str, str] = {}
        state = self._state(current)
        # Some settings are only offered once the ruleset has the kernel track connections.
        while new := [op for op in diff_shared(ruleset, state) if op not in done]:
            for op in new:
                logger.info("%s: %s", self._namespace.name, op)
                self._carry_out(op, refused)
            done |= {*new}
            state = self._state(ruleset)
        self._report(state, refused)

    def _state(self, ruleset: Ruleset | None) -> SharedState:
        # Who is in the namespace itself cannot change what counts for the whole machine.
        inside = self._namespace.is_entered()
        keys = [key for key, setting in shared.SYSCTLS.items() if not (inside and setting.machine)]
        return SharedState(ruleset, self._namespace.run(lambda: sysctl.read(keys)))

    def _carry_out(self, op: SharedOp, refused: dict[str, str]) -> None:
        try:
            match op:
                case SetFirewall():
                    self._firewall.replace(op.ruleset)
                case SetSysctl():
                    self._set(op)
        except OSError as error:
            if isinstance(op, SetFirewall) or shared.SYSCTLS[op.key].needed:
                raise OperationFailed("Cannot configure the network", f"{op}: {error}") from error
            refused[op.key] = str(error)

    def _set(self, op: SetSysctl) -> None:
        if shared.SYSCTLS[op.key].machine:
            sysctl.write(op.key, op.value)
        else:
            self._namespace.run(lambda: sysctl.write(op.key, op.value))

    def _report(self, state: SharedState, refused: Mapping[str, str]) -> None:
        """Tell which settings are not what they should be, as read back.

        Raises:
            OperationFailed: the load balancers need one of them.
        """
        texts = {
            each.key: f"this kernel has no such setting: {each.why}"
            for each in missing_settings(state)
        }
        has = dict(state.sysctls)
        for op in diff_shared(None, state):
            assert isinstance(op, SetSysctl)
            setting = shared.SYSCTLS[op.key]
            if setting.needed:
                raise OperationFailed("The kernel does not keep a setting", str(op))
            because = refused.get(op.key, "the kernel does not keep it")
            texts[op.key] = f"{has[op.key]} instead of {op.value} ({because}): {setting.why}"
        told = {str(sysctl.path(key)): text for key, text in texts.items()}
        for alarm in self._alarms.current():
            if alarm.kind == AlarmKind.SETTING and alarm.subject not in told:
                self._alarms.clear_alarm(alarm.kind, alarm.subject)
        for subject, text in told.items():
            self._alarms.set_alarm(AlarmKind.SETTING, subject, text, logging.WARNING)
