"""Where the agent's words go: standard error (the journal), or syslog when the settings say so."""

import logging
from pathlib import Path

from amphora_agent.settings import Settings

_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
_SYSLOG = Path("/dev/log")


def set_up(settings: Settings) -> None:
    """Direct all logging of this process and those it starts."""
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    if settings.use_syslog and _SYSLOG.exists():
        # Imported where it is needed: a tenth of what a short command takes to start.
        from logging.handlers import SysLogHandler

        facility = settings.syslog_log_facility.upper().removeprefix("LOG_").lower()
        codes = SysLogHandler.facility_names
        handler = SysLogHandler(str(_SYSLOG), codes.get(facility, codes["user"]))
        handler.setFormatter(logging.Formatter("amphora-agent[%(process)d] %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    follow(settings)


def follow(settings: Settings) -> None:
    """Take up the level of `settings`."""
    logging.getLogger().setLevel(logging.DEBUG if settings.debug else logging.INFO)
