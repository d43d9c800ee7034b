"""`python -m greenproxy`: see cli.py."""

import sys

from greenproxy.cli import main

sys.exit(main())
