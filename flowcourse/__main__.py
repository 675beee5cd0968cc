"""`python -m flowcourse`: the command line."""

import sys

from flowcourse.cli import main

if __name__ == "__main__":
    sys.exit(main())
