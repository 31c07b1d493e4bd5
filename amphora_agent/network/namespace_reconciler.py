"""Reconcile the firewall and the settings of the namespace: look, compare, do, look again.

Without netlink: at a boot nft runs while netlink is loaded.
"""

import logging
from collections.abc import Mapping

from amphora_agent.errors import OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.namespace import Namespace
from amphora_agent.network import sysctl
from amphora_agent.network.plan import firewall_rules
from amphora_agent.network.plan.diff import SetSysctl
from amphora_agent.network.plan.firewall_rules import Ruleset
from amphora_agent.network.plan.namespace_settings import (
    SETTINGS,
    NamespaceOp,
    NamespaceState,
    SetFirewall,
    diff_namespace,
    find_missing,
)
from amphora_agent.supervisor.processes import Completed, run

logger = logging.getLogger(__name__)

#: Seconds. The largest ruleset takes a tenth of one.
_TIMEOUT = 30.0
#: Characters. A rule with long addresses has 120, and an interface up to 10,000 rules.
_MOST_LISTING = 64 * 1024 * 1024


class Nftables:
    """The amphora's table in the packet filter of `namespace`, which exists."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def read(self) -> Ruleset | None:
        """Return the ruleset; None if there is no table, or one that cannot be read.

        Raises:
            OperationFailed: nft cannot be run.
        """
        answer = self._run(
            "--numeric", "list", "table", firewall_rules.FAMILY, firewall_rules.TABLE
        )
        if not answer.succeeded:
            logger.debug("nft lists no table: %s", answer.output)
            return None
        try:
            return firewall_rules.parse_listing(answer.output)
        except ValueError as error:
            logger.warning("cannot read what nft lists; the table is replaced: %s", error)
            return None

    def replace(self, ruleset: Ruleset) -> None:
        """Replace the table in one transaction. Other tables stay.

        Raises:
            OperationFailed: nft cannot be run, or refuses; the table stays.
        """
        answer = self._run("--file", "-", input=firewall_rules.build_transaction(ruleset))
        if not answer.succeeded:
            raise OperationFailed("The firewall is refused", answer.output.strip())

    def _run(self, *arguments: str, input: bytes = b"") -> Completed:
        argv = ("nft", "--json", *arguments)
        return self._namespace.run(
            lambda: run(argv, timeout=_TIMEOUT, input=input, most_output=_MOST_LISTING)
        )


class NamespaceReconciler:
    """Reconciles the firewall and the settings of `namespace`, which exists.

    A setting that is not needed, and that the kernel lacks or refuses, is an alarm.
    """

    def __init__(self, namespace: Namespace, alarms: Alarms) -> None:
        self._namespace = namespace
        self._alarms = alarms
        self._firewall = Nftables(namespace)

    def plan(self, ruleset: Ruleset | None) -> tuple[NamespaceOp, ...]:
        """Return what `apply` would do, as far as one look tells."""
        current = self._firewall.read() if ruleset is not None else None
        return diff_namespace(ruleset, self._read_state(current))

    def apply(self, ruleset: Ruleset | None, *, fresh: bool = False) -> None:
        """Set the firewall and the settings.

        Args:
            ruleset: None leaves the firewall alone.
            fresh: the namespace is new and has no ruleset.

        Raises:
            OperationFailed: the kernel refuses; if it refuses the ruleset, the earlier one stays.
        """
        current = None if fresh or ruleset is None else self._firewall.read()
        done: set[NamespaceOp] = set()
        refused: dict[str, str] = {}
        state = self._read_state(current)
        # The kernel offers some settings only after the ruleset makes it track connections.
        while new := [op for op in diff_namespace(ruleset, state) if op not in done]:
            for op in new:
                logger.info("%s: %s", self._namespace.name, op)
                self._carry_out(op, refused)
            done |= {*new}
            state = self._read_state(ruleset)
        self._report(state, refused)

    def _read_state(self, ruleset: Ruleset | None) -> NamespaceState:
        # A process of the namespace cannot change settings of the whole machine.
        inside = self._namespace.is_entered()
        keys = [key for key, setting in SETTINGS.items() if not (inside and setting.machine)]
        return NamespaceState(ruleset, self._namespace.run(lambda: sysctl.read(keys)))

    def _carry_out(self, op: NamespaceOp, refused: dict[str, str]) -> None:
        try:
            match op:
                case SetFirewall():
                    self._firewall.replace(op.ruleset)
                case SetSysctl() if SETTINGS[op.key].machine:
                    sysctl.write(op.key, op.value)
                case SetSysctl():
                    self._namespace.run(lambda: sysctl.write(op.key, op.value))
        except OSError as error:
            if isinstance(op, SetFirewall) or SETTINGS[op.key].needed:
                raise OperationFailed("Cannot configure the network", f"{op}: {error}") from error
            refused[op.key] = str(error)

    def _report(self, state: NamespaceState, refused: Mapping[str, str]) -> None:
        """Raise alarms for settings that are not as wanted when read back, and clear others.

        Raises:
            OperationFailed: one of them is needed.
        """
        texts = {
            key: f"this kernel has no such setting: {SETTINGS[key].why}"
            for key in find_missing(state)
        }
        has = dict(state.sysctls)
        for op in diff_namespace(None, state):
            assert isinstance(op, SetSysctl)
            setting = SETTINGS[op.key]
            if setting.needed:
                raise OperationFailed("The kernel does not keep a setting", str(op))
            reason = refused.get(op.key, "the kernel does not keep it")
            texts[op.key] = f"{has[op.key]} instead of {op.value} ({reason}): {setting.why}"
        alarms = {str(sysctl.path(key)): text for key, text in texts.items()}
        for alarm in self._alarms.current():
            if alarm.kind == AlarmKind.SETTING and alarm.subject not in alarms:
                self._alarms.clear_alarm(alarm.kind, alarm.subject)
        for subject, text in alarms.items():
            self._alarms.set_alarm(AlarmKind.SETTING, subject, text, logging.WARNING)
