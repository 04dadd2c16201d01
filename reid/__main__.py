"""`python -m reid`: the same as the command `reid`."""

import sys

from reid.cli import main

sys.exit(main())
