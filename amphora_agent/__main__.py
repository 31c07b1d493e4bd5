"""`python -m amphora_agent` is the command `amphora-agent`."""

import sys

from amphora_agent.cli import main

sys.exit(main())
