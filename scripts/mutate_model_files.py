"""Load mutations of valid model files: `mutate_model_files.py [N]`.

A mutation must end in `ModelFileError` or give an identical model, whatever was changed: bits,
sizes and numbers in the header, cuts, headers of other files. Every second one gets a checksum that
is right again; then what is changed may load, but must be a model that predicts, or refuses to with
an error of Python. Each load is bounded in time, and the process in memory.
"""

import contextlib
import hashlib
import io
import random
import re
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import fastnet as fn
from fastnet import _cli

SECONDS = 2                     # for a load
MEMORY = 1 << 30                # bytes, on top of what the process has at first
NUMBERS = [b"0", b"1", b"-1", b"2", b"7", b"255", b"65536", b"4294967295", b"9223372036854775807",
           b"1e400", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b"1" * 5000]


def valid_files(folder: Path) -> list[bytes]:
    """Return contents of files of every kind."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    nets = [
        fn.Sequential([fn.Dense(4, 3)]),
        fn.Sequential([fn.Dense(4, 6, activation="gelu", rng=1), fn.Dropout(0.3, rng=1),
                       fn.Residual([fn.LayerNorm(6), fn.Dense(6, 6, rng=2), fn.ELU(0.5)]),
                       fn.Sequential([fn.Dense(6, 3, bias=False, rng=3)])])]
    path = folder / "net"
    found = []
    for net, optimizer in zip(nets, (fn.SGD(0.1, 0.9),
                                     fn.Adam(fn.schedules.Cosine(0.01, 9))), strict=True):
        net.compile(optimizer, fn.SoftmaxCrossEntropy(weight=[1, 2, 3]), ["accuracy"])
        net.fit(x, y, epochs=2, verbose=0,
                callbacks=[fn.callbacks.Checkpoint(path), fn.callbacks.EarlyStopping("loss")])
        found.append(path.read_bytes())
        net.save(path)
        found.append(path.read_bytes())
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        np.savez("t.npz", x=x, y=y)
        _cli.main(["train", "t.npz", "--epochs", "1", "--hidden", "3", "--out", "table"])
        found.append(Path("table.safetensors").read_bytes())
    try:
        from fastnet.sklearn import MLPClassifier
    except ImportError:
        return found
    MLPClassifier((5,), max_iter=3, random_state=0).fit(x, y).save(path)
    return [*found, path.read_bytes()]


def mutate(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Return a changed file."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        start = 8 + int.from_bytes(data[:8], "little")
        kind = draw.randrange(8)
        if kind <= 1:                                       # bits, mostly of the header
            place = draw.randrange(min(len(data), start) if kind else len(data))
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 2:                                     # a cut, or an end that is too much
            keep = draw.randrange(len(data) + 1)
            data = data[:keep] if draw.random() < 0.7 else data + data[keep:]
        elif kind == 3:                                     # the header of another file
            other = draw.choice(others)
            data = bytearray(other[:8 + int.from_bytes(other[:8], "little")]) + data[start:]
        elif kind == 4:                                     # the header's length
            length = draw.choice([0, 1, len(data), 2**31, 2**63, 2**64 - 1, draw.randrange(9999)])
            data[:8] = length.to_bytes(8, "little")
        else:                                               # a number, or a piece of text
            header = bytes(data[8:start])
            words = list(re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?|true|false|null"
                                     if kind < 7 else rb"[A-Za-z_]+", header))
            if words:
                word = draw.choice(words)
                by = draw.choice(NUMBERS) if kind < 7 else draw.choice(words)[0]
                header = header[:word.start()] + by + header[word.end():]
                data = bytearray(len(header).to_bytes(8, "little") + header) + data[start:]
        if len(data) < 9:
            break
    return bytes(data)


def with_right_sum(content: bytes) -> bytes:
    """Return a file with a checksum that is right again, if there is one."""
    found = re.search(rb'"sha256":"([0-9a-f]{64})"', content)
    if not found:
        return content
    blank = content[:found.start(1)] + b"0" * 64 + content[found.end(1):]
    digest = hashlib.sha256(blank).hexdigest().encode()
    return content[:found.start(1)] + digest + content[found.end(1):]


def essence(model: Any) -> Any:
    """Return what makes a model what it is."""
    net = getattr(model, "network_", model)
    return repr(model), [(name, value.tobytes()) for name, value, _ in net.parameters()]


def use(model: Any) -> None:
    """Predict, and train where that is known; errors of Python are fine, crashes are not."""
    x, y = np.zeros((3, 4)), np.array([0, 1, 2])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(
            ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
            ValueError):
        model.predict(x)
        (model.partial_fit if hasattr(model, "partial_fit") else model.train_step)(x, y)


def main(count: int) -> int:
    """Return 1 if something else came than should."""
    draw = random.Random(count)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("too slow")))
    results: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        path = Path(name, "mutation")
        files = valid_files(Path(name))
        originals = []
        for content in files:
            path.write_bytes(content)
            originals.append(essence(fn.load(path)))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in range(count):
            which = draw.randrange(len(files))
            content = mutate(files[which], files, draw)
            right = number % 2 == 0
            if right:
                content = with_right_sum(content)
            path.write_bytes(content)
            started = time.perf_counter()
            signal.alarm(SECONDS)
            try:
                model = fn.load(path)
            except fn.ModelFileError:
                results["refused"] += 1
                continue
            except BaseException as error:
                path.rename(Path(tempfile.gettempdir(), "mutation"))
                print(f"mutation {number}: {type(error).__name__}: {error}")
                return 1
            finally:
                signal.alarm(0)
                slowest = max(slowest, time.perf_counter() - started)
            if content in files or essence(model) in originals:
                results["identical"] += 1
            elif right:
                results["another model, its checksum right"] += 1
            else:
                print(f"mutation {number}: the model is another one")
                return 1
            use(model)
    print(f"{count} mutations of {len(files)} files: "
          + ", ".join(f"{number} {result}" for result, number in sorted(results.items()))
          + f"; slowest load {1e3 * slowest:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500_000))
