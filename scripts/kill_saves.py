"""Kill a process that saves, at random moments, and look at what it leaves: `kill_saves.py [N]`.

Whatever the moment, the file must be the old one or the new one, whole, and there may be nothing
else in the folder but the one temporary file of that save.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fastnet as fn

CHILD = """
import sys
import fastnet as fn
nets = [fn.Sequential([fn.Dense(width, width, rng=0)]) for width in (100, 150)]
print("ready", flush=True)
while True:
    for net in nets:
        net.save(sys.argv[1])
"""


def main(rounds: int) -> int:
    """Return 1 if a file was broken or something else was left."""
    draw, broken, debris, seen = random.Random(0), 0, 0, {100: 0, 150: 0}
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name, "net")
        for _ in range(rounds):
            child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], cwd=folder,
                                     stdout=subprocess.PIPE)
            assert child.stdout is not None
            if child.stdout.readline() != b"ready\n":
                print("the process that saves did not begin")
                return 1
            while not path.exists():
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.03))
            child.send_signal(signal.SIGKILL)
            child.wait()
            try:
                seen[fn.load(path).layers[0].in_features] += 1
            except ValueError as error:
                print(error)
                broken += 1
            left = [one for one in os.listdir(folder) if one != "net"]
            debris += len(left) > 1 or any(not one.startswith(".fastnet-") for one in left)
            for one in left:
                os.unlink(folder / one)
    print(f"{rounds} kills: {broken} broken files, {debris} with debris; "
          f"{seen[100]} times one network and {seen[150]} times the other was found")
    return 1 if broken or debris else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
