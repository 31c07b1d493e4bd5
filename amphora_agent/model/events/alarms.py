"""Alarms: lasting conditions that an operator must know of."""

import enum
import logging

import msgspec


class AlarmKind(enum.StrEnum):
    """What is wrong. The value is the label of the metric `amphora_agent_alarm`."""

    #: The agent's certificate would not be accepted by the controller.
    AGENT_CERTIFICATE = "agent-certificate"
    #: The agent's certificate, or what it trusts, cannot be used or would not be accepted.
    AGENT_TLS = "agent-tls"
    #: A client's certificate does not say what it is for.
    CLIENT_CERTIFICATE = "client-certificate"
    #: The agent's configuration cannot be used; the one before it is.
    CONFIGURATION = "configuration"
    #: What heartbeats have told of counters cannot be written down.
    COUNTERS_NOT_SAVED = "counters-not-saved"
    #: A certificate, a CA or a revocation list expires soon, or has expired.
    EXPIRY = "expiry"
    #: A haproxy has fewer descriptors than the connections that it is configured for need.
    FEWER_CONNECTIONS = "fewer-connections"
    #: A file that haproxy loads was changed by hand.
    FILE_EDITED = "file-edited"
    #: A configuration of keepalived on disk has something that is not allowed.
    KEEPALIVED_TEXT_REFUSED = "keepalived-text-refused"
    #: haproxy is there and its master does not answer.
    MASTER_SILENT = "master-silent"
    #: The embedded supervisor cannot write or remove a file of a process.
    PROCESS_FILE_REFUSED = "process-file-refused"
    #: haproxy's program is not there, or cannot be run.
    PROGRAM_MISSING = "program-missing"
    #: The record of what happened cannot be written.
    RECORD_UNWRITTEN = "record-unwritten"
    #: The controllers' revocation list cannot be used.
    REVOCATION_LIST = "revocation-list"
    #: The kernel lacks or refuses a setting of the traffic's namespace.
    SETTING = "setting"
    #: haproxy is there and its worker does not answer.
    SILENT = "silent"
    #: No heartbeat can tell of so many listeners.
    TOO_MANY_LISTENERS = "too-many-listeners"
    #: What was committed does not load: the last good files run instead.
    WENT_BACK = "went-back"


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that lasts.

    `subject` is what it is about: the id of a load balancer or listener, a path, or "agent".
    `level` is `ERROR` or `WARNING`, `since` the first second (UTC, since 1970) of the condition.
    """

    kind: str
    subject: str
    text: str
    level: str = logging.getLevelName(logging.ERROR)
    since: float
