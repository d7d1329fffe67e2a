"""`python -m flagkernels`."""

import sys

from flagkernels.cli import main

if __name__ == "__main__":
    sys.exit(main())
