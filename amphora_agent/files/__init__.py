"""The only writer of files. Callers use its modules by one name: `files.write`."""

from amphora_agent.files.atomic import *  # noqa: F403
