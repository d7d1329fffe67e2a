"""Makes a machine ready for flagrelease; see steps.py."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  the one module that an older Python gets to read
    sys.exit(f"flagrelease needs Python 3.11 or newer, and this is {sys.version.split()[0]}: make PYTHON=python3.11 …")

from steps import main

sys.exit(main())
