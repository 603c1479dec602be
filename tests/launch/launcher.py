"""A launcher: `launcher.py FOLDER SCRIPT...` runs each script in two processes, as `lpobench run --gpus 2` does.

How script `a.py` came back is in FOLDER/a.json: its error, its exit code, and whether the launcher's environment and
signal handlers are what they were before.
"""

import json
import os
import signal
import sys
from pathlib import Path

from lpobench.launch.torchrun import FORWARDED, Plan, launch
from lpobench.plugin import UserError


def state() -> tuple[dict[str, str], list[object]]:
    return dict(os.environ), [signal.getsignal(getattr(signal, n)) for n in (*FORWARDED.split(","), "SIGINT")]


def main(folder: Path, scripts: list[Path]) -> None:
    for script in scripts:
        before, found = state(), {"error": None, "code": 0}
        try:
            launch(Plan(2), [str(script), str(folder)])
        except UserError as error:
            found = {"error": str(error), "code": error.exit_code}
        found["restored"] = state() == before
        (folder / script.with_suffix(".json").name).write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
