"""The only writer of files. Callers use both modules by one name: `files.write`, `files.point`."""

from amphora_agent.files.atomic import *  # noqa: F403
from amphora_agent.files.links import *  # noqa: F403
