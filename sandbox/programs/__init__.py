"""The programs that run inside a sandbox. The executor uploads this package as one archive and starts it as root:

    python3 -I -S /root/runs/RUN/programs.pyz NAME ARGUMENT...

`NAME` is one of `PROGRAMS`. With -I and -S Python imports from its own library and from the archive, and from no
folder that the agent could write to. `protocol.py` says what each program is asked and what it reports.

Standard library only, Python 3.9 or newer. The supervisor also runs on macOS, for the local stack.
"""

PROGRAMS = ("supervisor", "clone", "collect", "wipe_secrets", "close")
