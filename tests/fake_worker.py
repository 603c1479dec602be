"""A worker whose scores are the sizes of its files, in bytes; and that fails in the ways that `how` says."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "lpobench" / "scoring" / "workers"))
from _pipe import Missing, serve, there

live = {}


def open_model(options):
    print("chatter on stdout, and no newline at its end", end="")
    live.update(options)
    if options.get("how") == "no weights":
        there(options, "weights")
    if options.get("how") == "broken":
        raise RuntimeError("cannot\n  load")
    if options.get("how") == "cannot start":
        print("error: packages were unavailable because the network was disabled", file=sys.stderr)
        sys.exit(2)
    return {"versions": {"fake": "1"}, "offline": os.environ.get("UV_OFFLINE")}


def score(items):
    once = Path(live["once"]) if "once" in live else None
    match live.get("how"):
        case "dies":
            print("so long", file=sys.stderr)
            os._exit(7)
        case "dies once" if not once.exists():
            once.touch()
            os.kill(os.getpid(), 9)
        case "hangs":
            time.sleep(60)
        case "rubbish":
            live["answers"].write("Loading checkpoint shards: 100%\n")
            live["answers"].flush()
        case "raises":
            raise ValueError("no such image")
        case "few":
            return [1.0]
        case "missing":
            raise Missing("no weights of the second model")
        case "not finite":
            return [float("nan") for _ in items]
    return [float(os.path.getsize(item["image"])) for item in items]


if "rubbish" in sys.argv:
    live["answers"] = os.fdopen(os.dup(1), "w")
serve(open=open_model, score=score)
