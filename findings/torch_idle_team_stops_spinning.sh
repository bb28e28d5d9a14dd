#!/usr/bin/env bash
# torch 2.13.0, CPU wheel, Linux, two cores or more.
#
# Threads of torch's OpenMP library (libgomp) spin for about a millisecond when a parallel operation is over, and nothing
# that is set in a running process changes that: the environment is read when the library is loaded. But libgomp spins
# only a hundred rounds while the process has more OpenMP threads than it has cores, and that can be had at any moment:
# a thread that runs one parallel operation and then waits keeps a team of its own. With it the threads sleep between two
# operations; without it they do not, and where another program wants the same cores everything takes several times as long.
#
# Seen 2026-11-28 on two cores: a worker went to sleep in at most 1.3 of 100 pauses between operations; with an idle team
# 156 to 189 times in 100 pauses; and after the team's end as before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/look.py" <<'PYTHON'
import os
import threading
import time

import torch

PAUSES = 2000
torch.set_num_threads(2)
tensor = torch.zeros(1 << 16)


def switches():
    """Voluntary context switches of each thread of this process."""
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/status") as status:
            found[thread] = int(next(line for line in status if line.startswith("voluntary")).split()[1])
    return found


def slept():
    """How often a pause the worker that slept most did so."""
    before = switches()
    for _ in range(PAUSES):
        tensor.add_(1)
        end = time.perf_counter() + 1e-4
        while time.perf_counter() < end:
            pass
    after = switches()
    own = str(threading.get_native_id())
    return max(after[thread] - before[thread] for thread in before if thread != own) / PAUSES


def keep_team(ready, release):
    torch.zeros(1 << 16).add_(1)
    ready.set()
    release.wait()


slept()
alone = slept()
ready, release = threading.Event(), threading.Event()
holder = threading.Thread(target=keep_team, args=(ready, release))
holder.start()
ready.wait()
beside = slept()
release.set()
holder.join()
time.sleep(0.1)
again = slept()
print(f"torch {torch.__version__}: asleep {alone:.3f} times a pause; with an idle team {beside:.3f}; without it again {again:.3f}")
assert alone < 0.3 and again < 0.3 < 0.7 < beside
PYTHON
OMP_NUM_THREADS=2 taskset -c 0,1 "$folder/venv/bin/python" "$folder/look.py"
