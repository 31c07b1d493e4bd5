"""Where the agent's words go: standard error (the journal), or syslog when the settings say so."""

import logging
import logging.handlers
from pathlib import Path

from amphora_agent.settings import Settings

_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
_SYSLOG = Path("/dev/log")


def set_up(settings: Settings) -> None:
    """Direct all logging of this process and those it starts."""
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    if settings.use_syslog and _SYSLOG.exists():
        facility = settings.syslog_log_facility.upper().removeprefix("LOG_").lower()
        codes = logging.handlers.SysLogHandler.facility_names
        handler = logging.handlers.SysLogHandler(str(_SYSLOG), codes.get(facility, codes["user"]))
        handler.setFormatter(logging.Formatter("amphora-agent[%(process)d] %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    follow(settings)


def follow(settings: Settings) -> None:
    """Take up the level of `settings`."""
    logging.getLogger().setLevel(logging.DEBUG if settings.debug else logging.INFO)
