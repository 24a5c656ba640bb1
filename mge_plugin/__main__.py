"""python -m mge_plugin SCRIPT ARGS: see `mge_plugin.launcher`."""

import sys

from mge_plugin.launcher import prepare

if __name__ == "__main__":
    __file__, code = prepare(sys.argv[1:])
    exec(code)
