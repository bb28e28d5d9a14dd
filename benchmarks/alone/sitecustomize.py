"""Python runs this first where its folder is in PYTHONPATH: bottega then does not look for other programs.

`beside.py` stops a build while another computes. It would take that one for a program to leave the cores to.
"""

try:
    from bottega.hardware import other_programs
except ImportError:
    pass  # an earlier build, which never looks
else:
    other_programs.INTERVAL_SECONDS = 1e6
