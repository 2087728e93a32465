"""`python -m MODULE FLAGS --api-key KEY` without the key in a command line: it is read from a file that only this user can read.

For engines that take their key as an argument only. Called as `python with_key.py KEY_FILE MODULE FLAGS...`, also inside images:
standard library alone, and nothing of this package.
"""

import os
import runpy
import sys

if __name__ == "__main__":
    key_file, module, *flags = sys.argv[1:]
    with open(key_file, encoding="utf-8") as file:
        sys.argv = [module, *flags, "--api-key", file.read().strip()]
    sys.path[0] = os.getcwd()  # as `python -m` has it: this file's own folder holds names that engines use too
    runpy.run_module(module, run_name="__main__", alter_sys=True)
