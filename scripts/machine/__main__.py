"""Prepare a machine for flagrelease; see steps.py."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  this module must run on older versions
    sys.exit(f"flagrelease needs Python 3.11 or newer, and this is {sys.version.split()[0]}: make PYTHON=python3.11 …")

from steps import main

sys.exit(main())
