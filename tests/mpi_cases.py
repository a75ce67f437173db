"""What test_mpi.py lets several processes do: `mpiexec -n 3 python mpi_cases.py FOLDER [CASE ...]`.

A case is a function of a communicator that returns what it has found, by name; with None it does
the same alone on all samples. Each rank writes what it found to a file in the folder.
"""

import pickle
import sys
import warnings
from pathlib import Path

import numpy as np

import fastnet as fn
from fastnet.callbacks import Callback, Checkpoint, EarlyStopping, ReduceLROnPlateau

CASES = {}
FOLDER = Path(".")      # for files
SIZE = 1                # for how many ranks one process does it alone


def case(function):
    CASES[function.__name__] = function
    return function


def data(n=203, features=7, classes=3):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, features))
    return x, rng.integers(0, classes, n), rng.uniform(0.1, 2, n)


def network(*, dtype="float64", outputs=3, norm=False, drops=0.0):
    layers = [fn.Dense(7, 9, activation="tanh", rng=0, dtype=dtype)]
    layers += [fn.LayerNorm(9, dtype=dtype)] if norm else []
    layers += [fn.Dropout(drops, rng=1)] if drops else []
    return fn.Sequential([*layers, fn.Dense(9, outputs, rng=2, dtype=dtype)])


def values(net):
    return [value.copy() for _, value, _ in net.parameters()]


def rank_of(comm):
    return 0 if comm is None else comm.rank


def own(comm, n, seed=0):
    """Return this rank's rows of n: parts of any size, the second rank's is empty."""
    if comm is None or comm.size == 1:
        return slice(0, n)
    cuts = np.sort(np.random.default_rng(seed).integers(0, n + 1, comm.size - 1))
    bounds = [0, *cuts.tolist(), n]
    bounds[2] = bounds[1] if comm.size > 2 else n
    bounds[1] = n if comm.size == 2 else bounds[1]
    return slice(bounds[comm.rank], bounds[comm.rank + 1])


# ---- The same as one process on the whole ------------------------------------------------------


@case
def fit_of_a_whole(comm):
    x, y, w = data()
    net = network()
    net.compile(fn.Adam(0.01), metrics=["accuracy", "top_2_accuracy"])
    history = net.fit(x, y, 20, 10, validation_split=0.1, rng=0, sample_weight=w, verbose=0,
                      class_weight="balanced", comm=comm, shard="split")
    return {"parameters": values(net), "steps": net.optimizer.steps, **vars(history)}


@case
def fit_of_own_parts(comm):
    """All samples in one step; the parts are of any size, and one is empty."""
    x, y, w = data()
    rows, checked = own(comm, 180), own(comm, 23, 1)
    net = network(norm=True)
    net.compile(fn.SGD(0.05, 0.9), metrics=["accuracy", lambda scores, target: scores.mean()])
    history = net.fit(
        x[:180][rows], y[:180][rows], 1000, 100, (x[180:][checked], y[180:][checked]),
        sample_weight=w[:180][rows], class_weight="balanced", shuffle=False, verbose=0, comm=comm)
    return {"parameters": values(net), **vars(history)}


@case
def steps_of_own_parts(comm):
    x, y, w = data()
    net = network()
    net.compile(fn.SGD(0.05, 0.9, nesterov=True))
    losses = []
    for step in range(100):
        batch = np.random.default_rng(step).permutation(203)[:1 + step % 30]
        batch = batch[own(comm, len(batch), step)]
        losses.append(net.train_step(x[batch], y[batch], w[batch], comm=comm))
    return {"parameters": values(net), "losses": losses}


@case
def steps_of_a_whole(comm):
    """Also batches of fewer samples than ranks, and in blocks of rows."""
    x, y, w = data(900)
    net = network()
    net.compile(fn.Adam(0.01))
    losses = [net.train_step(x[:n], y[:n].tolist(), w[:n], comm=comm, shard="split")
              for n in (1, 2, 900, 3, 17)]
    return {"parameters": values(net), "losses": losses}


@case
def every_optimizer(comm):
    x, y, _ = data()
    found = {}
    for optimizer in (
            fn.SGD(fn.schedules.Cosine(0.1, 100, warmup=10), 0.9, weight_decay=0.01),
            fn.Adam(0.01, clip_norm=0.1), fn.AdamW(0.01, decay_vectors=False),
            fn.RMSprop(0.003, momentum=0.5, centered=True, clip_value=0.001)):
        net = network(norm=True)
        net.layers[1].trainable = False
        net.compile(optimizer, keep_gradients=True)
        for step in range(0, 100):
            batch = np.arange(step, step + 30)
            net.train_step(x[batch], y[batch], comm=comm, shard="split")
        found[type(optimizer).__name__] = [*values(net), *(g.copy() for *_, g in net.parameters())]
    return found


@case
def every_loss(comm):
    x, y, w = data()
    rows = np.abs(np.random.default_rng(2).normal(size=(203, 3)))
    found = {}
    for loss, target in {
            fn.SoftmaxCrossEntropy(label_smoothing=0.1, ignore_index=1, weight=[1, 2, 3]): y,
            fn.SoftmaxCrossEntropy(reduction="sum"): y,
            fn.MeanSquaredError(): rows,
            fn.MeanSquaredError(reduction="sum"): rows,
            fn.BinaryCrossEntropy(pos_weight=[1, 2, 3]): rows > 0.5,
            fn.Huber(delta=0.2): rows, fn.Poisson(): rows}.items():
        net = network()
        accuracy = ["accuracy"] if "Entropy" in type(loss).__name__ else []
        net.compile(fn.SGD(0.003), loss, metrics=accuracy)
        history = net.fit(x, target, 50, 4, sample_weight=w, validation_data=(x, target, w),
                          rng=0, verbose=0, comm=comm, shard="split")
        found[repr(loss)] = [*values(net), *history.curves.values()]
    return found


class Twice(fn.Layer):
    """A layer of somebody's own, with a parameter."""

    def __init__(self):
        self.factor, self.gradient = np.full(9, 1.5), np.zeros(9)

    def forward(self, x, out=None):
        self.x = x
        return x * self.factor

    def backward(self, dy, out=None):
        self.gradient[...] = (dy * self.x).sum(axis=0)
        return dy * self.factor

    def parameters(self):
        return [("factor", self.factor, self.gradient)]


@case
def layers_of_ones_own(comm):
    x, y, w = data()
    net = fn.Sequential([fn.Dense(7, 9, rng=0, dtype="float64"), Twice(),
                         fn.Dense(9, 3, rng=1, dtype="float64")])
    net.compile(fn.SGD(0.02, 0.9), metrics=["accuracy", "top_2_accuracy"])
    history = net.fit(x, y, 25, 12, sample_weight=w, validation_data=(x, y), rng=0, verbose=0,
                      comm=comm, shard="split")
    for step in range(9):
        batch = np.arange(step, step + 3)[own(comm, 3, step)]
        net.train_step(x[batch], y[batch], comm=comm, update=step % 2 == 0)
    return {"parameters": values(net), **vars(history)}


@case
def gradients_that_wait(comm):
    """Some ranks have nothing in some of the batches that make a step."""
    x, y, w = data()
    net = network()
    net.compile("adam")
    losses = []
    for step in range(50):
        batch = np.arange(step, step + 5)[own(comm, 5, step)]
        losses.append(net.train_step(
            x[batch], y[batch], w[batch], update=step % 3 == 2, comm=comm))
    net.fit([(x[i:i + 4], y[i:i + 4]) for i in range(0, 200, 4)], epochs=2, verbose=0,
            gradient_accumulation_steps=3, comm=comm, shard="split")
    return {"parameters": values(net), "losses": losses, "steps": net.optimizer.steps}


@case
def batches(comm):
    """Each rank has another number of batches: the steps are what they bring together."""
    x, y, _ = data(120)
    net = network()
    net.compile(fn.SGD(0.05), metrics=["accuracy", "top_2_accuracy"])
    size = SIZE if comm is None else comm.size
    lists = [[slice(10 * i, 10 * i + 3 + rank) for i in range(2 * (size - rank))]
             for rank in range(size)]
    if comm is None:
        steps = [[of_rank[i] for of_rank in lists if i < len(of_rank)] for i in range(2 * size)]
        mine = [tuple(np.concatenate([a[rows] for rows in step]) for a in (x, y)) for step in steps]
    else:
        mine = [(x[rows], y[rows]) for rows in lists[comm.rank]]
    history = net.fit(iter(mine), epochs=1, verbose=0, comm=comm)
    endless = (mine[i % len(mine)] for i in range(10**9))
    if comm is None:
        endless = (tuple(np.concatenate([a[of[i % len(of)]] for of in lists]) for a in (x, y))
                   for i in range(10**9))
    net.fit(endless, epochs=2, steps_per_epoch=5, verbose=0, comm=comm)
    return {"parameters": values(net), **vars(history)}


@case
def evaluation(comm):
    x, y, w = data()
    net = network()
    net.compile(metrics=["accuracy", "top_2_accuracy"])
    rows = own(comm, 203)
    return {"own": [*net.evaluate(x[rows], y[rows], w[rows], comm=comm).metrics.values()],
            "whole": list(net.evaluate(x, y, w, comm=comm, shard="split"))}


@case
def estimators(comm):
    try:
        from fastnet.sklearn import MLPClassifier, MLPRegressor
    except ImportError:
        return {}
    warnings.simplefilter("ignore")
    x, y, w = data()
    found = {}
    for kind, options, weights in (
            (MLPClassifier, {"early_stopping": True, "n_iter_no_change": 3}, None),
            (MLPClassifier, {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1,
                             "class_weight": "balanced", "n_iter_no_change": 2}, w),
            (MLPRegressor, {"alpha": 0.1, "shuffle": False}, w),
            (MLPClassifier, {"alpha": 0.1, "shuffle": False},   # one batch without any weight
             np.where(np.arange(len(w)) // 50 == 1, 0, w)),
            (MLPRegressor, {"loss": "poisson", "alpha": 0.1}, w)):
        model = kind(hidden_layer_sizes=(9,), random_state=0, max_iter=15, batch_size=50, **options)
        watched = {} if options.get("early_stopping") else {"X_val": x[:20], "y_val": y[:20]}
        model.fit(x, y, weights, **watched, comm=comm)
        found[f"{kind.__name__} {options}"] = [
            *model.coefs_, *model.intercepts_, model.loss_curve_, model.validation_loss_curve_,
            model.n_iter_, model.t_, model.best_loss_ or 0.0, model.score(x, y)]
    return found


# ---- What is decided once for all --------------------------------------------------------------


class Watching(Callback):
    """Notes what it sees, and changes what a callback can change."""

    def __init__(self):
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.model.layers[0].trainable = epoch != 1

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((epoch, logs["loss"]))
        self.model.optimizer.lr = 0.1 / (epoch + 1)
        self.model.optimizer.momentum = 0.5
        self.model.layers[0].weight[0] = epoch

    def on_train_batch_end(self, batch, logs=None):
        if len(self.seen) == 3 and batch == 1:
            self.model.stop_training = True


@case
def callbacks(comm):
    x, y, _ = data()
    net = network()
    net.compile(fn.SGD(0.1, 0.9), metrics=["accuracy"])
    watching = Watching()
    history = net.fit(x, y, 40, 10, validation_split=0.2, rng=0, verbose=0, comm=comm,
                      shard="split", callbacks=[watching])
    return {"parameters": values(net), "lr": net.optimizer.lr, "stop": net.stop_training,
            "steps": net.optimizer.steps, "seen of rank 0": watching.seen, **vars(history)}


@case
def early_stopping(comm):
    """Only rank 0 is given callbacks, and a learning rate of its own."""
    x, y, _ = data()
    net = network()
    net.compile(fn.SGD(0.4 + rank_of(comm), 0.9))
    some = [EarlyStopping(patience=4), ReduceLROnPlateau("loss", patience=1)]
    history = net.fit(x, y, 40, 100, validation_split=0.2, rng=0, verbose=0, comm=comm,
                      shard="split", callbacks=some if rank_of(comm) == 0 else [])
    return {"parameters": values(net), "epochs": len(history.epoch), "lr": net.optimizer.lr}


@case
def start_of_rank_0(comm):
    """What other ranks begin with does not matter: parameters, orders, states, dropout."""
    x, y, _ = data()
    found = {}
    for name in ("fit", "steps"):
        net = network()
        net.compile(fn.SGD(0.1 * (1 + rank_of(comm)), 0.9))
        net.train_step(x[rank_of(comm):], y[rank_of(comm):])
        if name == "fit":
            net.fit(x, y, 30, 2, rng=100 + rank_of(comm), verbose=0, comm=comm, shard="split")
        else:
            for _ in range(3):
                net.train_step(x, y, comm=comm, shard="split")
        found[name] = [*values(net), net.optimizer.lr]
    return found


@case
def printing(comm):
    x, y, _ = data()
    net = network()
    net.compile()
    sys.modules["tqdm"] = None          # which is not installed everywhere
    net.fit(x, y, 100, 2, comm=comm, shard="split")
    del sys.modules["tqdm"]
    return {}


# ---- Dropout, checkpoints ----------------------------------------------------------------------


def fit_with_dropout(comm, path=None, epochs=4, **options):
    x, y, _ = data()
    net = network(drops=0.5, dtype="float32")
    net.compile("adam", metrics=["accuracy"])
    rows = slice(None) if comm is None else slice(rank_of(comm) * 40, rank_of(comm) * 45 + 31)
    history = net.fit(
        x[rows], y[rows], 10, epochs, verbose=0, comm=comm, rng=0,
        callbacks=[Checkpoint(path, resume=True)] if path else [], **options)
    return net, history


@case
def dropout(comm):
    """The same bits again, and after a stop; each rank drops entries of its own."""
    net, history = fit_with_dropout(comm)
    again, _ = fit_with_dropout(comm)
    found = {"parameters": values(net), "again": values(again), "history": vars(history)}
    if comm is None:
        return found
    path = FOLDER / f"dropout-{comm.size}.safetensors"
    fit_with_dropout(comm, path, epochs=2)
    comm.Barrier()
    resumed, history = fit_with_dropout(comm, path)
    dropped = []
    layer = net.layers[1]
    from fastnet._distributed import SharedSteps
    from fastnet._ranks import Ranks
    with SharedSteps(net, net._trainer, Ranks(comm))._own_seeds():
        dropped = (layer.forward(np.ones((20, 9), "float32")) == 0).tolist()
    return {**found, "resumed": values(resumed), "resumed history": vars(history),
            "seeds": [int(n) for n in layer._seen], "dropped": dropped}


def checkpointed(comm, path, epochs):
    x, y, w = data()
    net = network()
    net.compile(fn.Adam(0.01), metrics=["accuracy"])
    history = net.fit(x, y, 32, epochs, validation_split=0.1, sample_weight=w, verbose=0, rng=3,
                      comm=comm, shard="split",
                      callbacks=[EarlyStopping(patience=50), Checkpoint(path, resume=True)])
    return {"parameters": values(net), **vars(history)}


@case
def checkpoint(comm):
    """Goes on from a file, if one is there: the test puts it there."""
    path = FOLDER / "checkpoint.safetensors"
    return checkpointed(comm, path, 6)


# ---- Memory maps -------------------------------------------------------------------------------


@case
def memory_maps(comm):
    """Of the network's type and of another one, whole and in parts."""
    x, y, _ = data()
    found = {}
    folder = FOLDER
    for dtype in ("float64", "float32"):
        path = folder / f"x-{rank_of(comm)}-{dtype}.npy"
        np.save(path, x.astype(dtype))
        mapped = np.load(path, mmap_mode="r")
        rows = own(comm, 203)
        for shard, some in (("split", slice(None)), ("own", rows)):
            net = network()
            net.compile()
            net.fit(mapped[some], y[some], 500, 3, shuffle=False, verbose=0, comm=comm,
                    shard=shard, validation_data=(mapped[some], y[some]))
            found[f"{dtype} {shard}"] = values(net)
    return found


# ---- Errors of one rank ------------------------------------------------------------------------


class Fails(Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise LookupError("a callback fails")


def fails_at(error, n):
    x, y, _ = data()
    for i in range(n):
        yield x[i:i + 5], y[i:i + 5]
    raise error


@case
def errors(comm):
    """Rank 1 fails: its own error there, another one elsewhere that names it."""
    x, y, _ = data()
    bad = comm is not None and comm.rank == 1
    inf = x.copy()
    inf[3:7] = np.inf if bad else 1

    def compiled(**options):
        net = network(**options)
        net.compile(fn.SGD(0.1), metrics=["accuracy"])
        return net

    def rank_1(good, wrong):
        return wrong if bad else good

    own_layers = fn.Sequential([fn.Dense(7, 9, rng=0, dtype="float64"), Twice(),
                                fn.Dense(9, 3, rng=1, dtype="float64")])
    own_layers.compile()
    shared = {"verbose": 0, "comm": comm, "shuffle": False}

    def of_ranks(work, *arguments, **options):
        return lambda: work(*arguments, **(shared | options))

    found = {}
    for name, work in {
            "features": of_ranks(compiled().fit, rank_1(x, x[:, :5]), y),
            "features of a step": lambda: compiled().train_step(
                rank_1(x, x[:, :5]), y, comm=comm),
            "labels": of_ranks(own_layers.fit, x, rank_1(y, y + 3)),
            "iterator": of_ranks(
                compiled().fit, rank_1([(x, y)] * 9, fails_at(OSError("the disk fails"), 4))),
            "interrupt": of_ranks(
                compiled().fit, rank_1([(x, y)] * 9, fails_at(KeyboardInterrupt(), 4))),
            "no more": of_ranks(compiled().fit, rank_1([(x, y)] * 9, iter([(x, y)] * 4)),
                                steps_per_epoch=9),
            "batch_size": of_ranks(compiled().fit, x, y, rank_1(30, 20), shard="split"),
            "epochs": of_ranks(compiled().fit, x, y, epochs=rank_1(1, 2)),
            "option": of_ranks(compiled().fit, x, y, epochs=rank_1(1, 0)),
            "network": of_ranks(compiled(**rank_1({}, {"outputs": 4})).fit, x, y),
            "data": of_ranks(compiled().fit, rank_1(x, x[::-1]), y, shard="split"),
            "validation": of_ranks(
                compiled().fit, x, y, validation_data=rank_1((x, y), (x, y + 9))),
            "no validation": of_ranks(compiled().fit, x, y,
                                      validation_data=rank_1((x, y), None)),
            "callback": of_ranks(compiled().fit, x, y, callbacks=[Fails()]),
            "not finite": of_ranks(compiled().fit, inf, y, batch_size=100),
            "not finite step": lambda: compiled().train_step(inf, y, comm=comm),
            "nothing": of_ranks(compiled().fit, x[:0], y[:0]),
            "no batches": of_ranks(compiled().fit, []),
            "no rows of a step": lambda: compiled().train_step(x[:0], y[:0], comm=comm),
            "evaluate": lambda: compiled().evaluate(x, rank_1(y, y + 9), comm=comm),
            "comm": lambda: compiled().fit(x, y, comm=7),
            "shard": of_ranks(compiled().fit, x, y, shard="mine"),
            "weights": lambda: compiled().train_step(
                x, y, rank_1(np.ones(203), np.full(203, 1e-300)), comm=comm),
            "balanced": of_ranks(compiled().fit, x, rank_1(y, y + 9), class_weight="balanced"),
    }.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                work()
                found[name] = "nothing"
            except BaseException as error:
                found[name] = f"{type(error).__name__}: {error}"
    net, again = compiled(), compiled()
    again.train_step(x, y, comm=comm, update=False)
    for some in (x[:, :5] if bad else x, x[:0]):
        try:
            again.train_step(some, y[:len(some)], comm=comm)
        except (RuntimeError, ValueError):
            pass
    for some in (net, again):       # everybody is still there, and nothing is left of an error
        some.train_step(x, y, comm=comm, shard="split")
        some.fit(x, y, verbose=0, rng=0, comm=comm, shard="split")
    return {"messages of each rank": found, "parameters": values(net), "again": values(again)}


@case
def stop_of_another_rank(comm):
    """A signal handler may stop a fit on any rank."""
    x, y, _ = data()
    net = network()
    net.compile()

    def stopping():
        for step in range(20):
            if step == 5 and comm is not None and comm.rank == comm.size - 1:
                net.stop_training = True
            yield x[:10], y[:10]

    net.fit(stopping(), verbose=0, comm=comm)
    return {"steps": net.optimizer.steps, "stop": net.stop_training}


@case
def warning_of_equal_parts(comm):
    x, y, _ = data()
    net = network()
    net.compile()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net.fit(x, y, verbose=0, comm=comm)
    return {"messages of each rank": {"warned": [str(one.message) for one in caught]}}


# ---- Each in a run of its own: limits, and ends of processes ------------------------------------


def fit_without_end(comm):
    x, y, _ = data()
    net = network()
    net.compile()
    net.fit(x, y, epochs=10**7, verbose=0, comm=comm, shard="split")


def killed(comm):
    """Rank 1 is killed in the middle."""
    import os
    import signal
    import threading

    if comm.rank == 1:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
    fit_without_end(comm)


def fails_between_messages(comm):
    """Where nobody can be told: rank 1 fails while it takes the update."""
    if comm.rank == 1:
        def fail(self, place):
            raise MemoryError("no memory on rank 1")

        from fastnet._trainer import Trainer
        Trainer.apply_pending = fail
    fit_without_end(comm)


def larger_than_memory(comm):
    """Each rank may have 60 MB more, and its map has 96 MB: whole, in own parts, and by batches."""
    import resource

    x = np.load(FOLDER / "large.npy", mmap_mode="r")
    y = np.arange(len(x)) % 3
    half = slice(comm.rank * len(x) // comm.size, (comm.rank + 1) * len(x) // comm.size)
    net = fn.Sequential([fn.Dense(x.shape[1], 3, rng=0)])
    net.compile(metrics=["accuracy", "top_2_accuracy"])
    net.fit(x[:10], y[:10], verbose=0, comm=comm, shard="split")
    with open("/proc/self/status") as status:
        used = int(next(line for line in status if line.startswith("VmData")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + 60_000_000, -1))
    try:
        np.ones(x.shape, x.dtype)
        print("no limit")
    except MemoryError:
        pass
    batches = ((x[i:i + 500], y[i:i + 500]) for i in range(0, len(x), 500))
    shared = {"verbose": 0, "batch_size": 500, "comm": comm}
    net.fit(x, y, validation_data=(x, y), shard="split", **shared)
    net.fit(x[half], y[half], validation_data=(x[half], y[half]), **shared)
    net.fit(batches, shard="split", **shared)
    print(f"rank {comm.rank}: {net.optimizer.steps} steps, "
          f"{net.evaluate(x[half], y[half], comm=comm).metrics.keys()}", flush=True)


def uncaught(comm):
    """An error of one rank that no script catches."""
    x, y, _ = data()
    net = network()
    net.compile()
    net.fit(x[:, :5 if comm.rank == 1 else 7], y, verbose=0, comm=comm)


def main(folder, *names):
    global FOLDER
    from mpi4py import MPI

    comm, FOLDER = MPI.COMM_WORLD, Path(folder)
    if names and names[0] not in CASES:
        globals()[names[0]](comm)
        return
    found = {name: CASES[name](comm) for name in names or CASES}
    Path(folder, f"rank-{comm.rank}-of-{comm.size}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
