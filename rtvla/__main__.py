"""`python -m rtvla`: the same as the command `rtvla`."""

import sys

from rtvla.cli import main

sys.exit(main())
