"""`python -m lpobench`: the command line, and what torchrun starts once per GPU."""

import sys

from lpobench.cli import main
from lpobench.launch.environment import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
