"""Runs `python -m MODULE FLAGS --api-key KEY` without the key in a command line: it reads the key from a file that only this user can read.

For engines that accept their key only as an argument. Called as `python with_key.py KEY_FILE MODULE FLAGS...`, also inside images.
It imports only the standard library, nothing from this package.
"""

import os
import runpy
import sys

if __name__ == "__main__":
    key_file, module, *flags = sys.argv[1:]
    with open(key_file, encoding="utf-8") as file:
        sys.argv = [module, *flags, "--api-key", file.read().strip()]
    sys.path[0] = os.getcwd()  # as `python -m` does: this file's own folder has modules with names that engines use too
    runpy.run_module(module, run_name="__main__", alter_sys=True)
