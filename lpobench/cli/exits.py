"""What the command line leaves with."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes. An expected error carries its own: `UserError.exit_code`."""

    OK = 0
    USAGE = 2
    """Unknown option, name or key, wrong value, parts that do not fit together. Nothing was written."""
    MISSING = 3
    """Weights, data or a package that is not on this machine; the message says how to supply it."""
    FAILED = 4
    """The run failed: a non-finite loss, a full disk, or an error of ours with its traceback on stderr."""
    INCOMPLETE = 5
    """Cells of a sweep failed; the others are complete, and the same command tries the failed ones again."""
    PREEMPTED = 75
    """Stopped by a signal with everything saved: the same command goes on from there."""
    INTERRUPTED = 130
    """Ctrl-C, at once."""
