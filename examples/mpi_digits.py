"""Handwritten digits learned by one process or several: the same script, the same result.

    python examples/mpi_digits.py
    mpiexec -n 4 python -m mpi4py examples/mpi_digits.py

All processes are given the same samples, and each takes its part of every batch.
"""

import fastnet as fn
from fastnet.callbacks import EarlyStopping

try:
    from mpi4py import MPI
    comm = MPI.COMM_WORLD
except (ImportError, RuntimeError):         # not installed, or there is no MPI for it
    comm = None


def train(comm):
    x, digits = fn.load_digits()
    net = fn.Sequential([fn.Dense(64, 100, activation="relu", rng=0, dtype="float64"),
                         fn.Dense(100, 10, rng=1, dtype="float64")])
    net.compile(fn.SGD(lr=0.1, momentum=0.9), metrics=["accuracy"])
    history = net.fit(x, digits, batch_size=100, epochs=50, validation_split=0.2, rng=0, verbose=0,
                      callbacks=[EarlyStopping("val_accuracy", patience=10)],
                      comm=comm, shard="split")
    return history, net.evaluate(x[-360:], digits[-360:], comm=comm, shard="split")


if __name__ == "__main__":
    history, (loss, accuracy) = train(comm)
    if comm is None or comm.rank == 0:
        print(f"{len(history.epoch)} epochs on {comm.size if comm else 1} processes: {history}")
        print(f"the best on digits that were held out: loss {loss:.4f}, accuracy {accuracy:.4f}")
