"""Imports modules and says which templates they registered: `python -m stoker.worker.doctor.loaders_probe MODULE ...`.

A process of its own, run by `warming`. It imports as little as it can: what a module drags in is to be its own doing.
The answer is one line of JSON, the last of its output.
"""

import importlib
import json
import sys

from stoker.cache.loaders import default_registry


def main(modules: list[str]) -> None:
    failed: dict[str, str] = {}
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            failed[module] = f"{type(error).__name__}: {error}"
    answer = {"failed": failed, "templates": sorted(default_registry.templates())}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
