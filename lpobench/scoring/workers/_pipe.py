"""The worker's end of the pipe: plain Python, for any environment. See lpobench/scoring/worker.py."""

import json
import os
import sys
import traceback


class Missing(Exception):
    """Weights that are not on this machine; the message says which."""


def serve(**requests):
    """Answer requests, each by the function of its name, until nobody is there to ask.

    What anybody prints goes to stderr: stdout is for answers.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        number, do = request.pop("id"), request.pop("do")
        try:
            answer = {"ok": requests[do](**request)}
        except Missing as missing:
            answer = {"error": str(missing), "missing": True}
        except Exception as error:
            traceback.print_exc()
            text = " ".join(str(error).split())
            answer = {"error": f"{type(error).__name__}: {text[:300]}"}
        answers.write(json.dumps({"id": number, **answer}) + "\n")
        answers.flush()


def versions(*packages):
    """Of the packages that matter to a score."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}


def there(options, name):
    """A path among the options. Raises Missing where nothing lies there."""
    path = options.get(name)
    if not path or not os.path.exists(path):
        raise Missing(f"no {name} at {path}")
    return path
