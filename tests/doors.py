"""The public doors by which data come in: functions of what is handed over, with good other data.

Each door takes part in the tests of bad inputs. Those of layers, losses and kernels are tables of
the tests themselves.
"""

import contextlib
import io
import warnings

import numpy as np
import pytest

import fastnet as fn
from fastnet import _cli

FEATURES, CLASSES, N = 4, 3, 20
_numbers = np.random.default_rng(7)
X = _numbers.normal(size=(N, FEATURES)).astype(np.float32)
Y = np.arange(N) % CLASSES


class Own(fn.Identity):
    """A layer of somebody's own: a network of it runs layer by layer."""

    def forward(self, x, out=None):
        return np.asarray(x)

    def backward(self, dy, out=None):
        return np.asarray(dy)


def make_network(own=False, dtype="float32", **compiled):
    net = fn.Sequential([
        fn.Dense(FEATURES, 8, dtype=dtype, rng=0), fn.ReLU(), fn.Dropout(0.1, rng=2),
        *([Own()] if own else []),
        fn.Dense(8, CLASSES, dtype=dtype, rng=1)])
    net.compile(**{"optimizer": fn.SGD(0.1, 0.9), "metrics": ["accuracy"], **compiled})
    return net


def state(net):
    """Everything that a refused call must leave as it was."""
    return ([value.tobytes() for _, value, _ in net.parameters()], net.optimizer.steps,
            repr(net.optimizer._state(net.layers)), net._training_state()["dropout"])


# What networks do with inputs `x`, with labels that fit if anything does.

PREDICT = {
    "predict": lambda net, x: net.predict(x),
    "predict_proba": lambda net, x: net.predict_proba(x),
    "predict_labels": lambda net, x: net.predict_labels(x),
    "forward": lambda net, x: net.forward(x),
}
FROZEN = {
    "frozen.predict": lambda net, x: net.frozen().predict(x),
    "frozen.predict_proba": lambda net, x: net.frozen().predict_proba(x),
    "frozen.predict_labels": lambda net, x: net.frozen().predict_labels(x),
}
LEARN = {
    "train_step": lambda net, x, y: net.train_step(x, y),
    "train_step without update": lambda net, x, y: net.train_step(x, y, update=False),
    "fit": lambda net, x, y: net.fit(x, y, verbose=0, batch_size=7, shuffle=False),
    "fit on batches": lambda net, x, y: net.fit([(x, y)], verbose=0),
    "fit with these for validation": lambda net, x, y: net.fit(
        X, Y, verbose=0, shuffle=False, validation_data=(x, y)),
    "evaluate": lambda net, x, y: net.evaluate(x, y),
}
NETWORKS = [(own, name, door) for own in (False, True)
            for name, door in {**PREDICT, **LEARN, **({} if own else FROZEN)}.items()]


def labels_for(x):
    try:
        return Y[np.arange(len(x)) % N]
    except TypeError:
        return Y[:1]


def through_networks(x):
    """Yield each door as its name, a network, and a call of it with `x` as inputs."""
    for own, name, door in NETWORKS:
        net = make_network(own)
        more = (labels_for(x),) if name in LEARN else ()
        yield f"{name}, {'own layers' if own else 'engine'}", net, (
            lambda net=net, door=door, more=more: door(net, x, *more))


def targets_through_networks(y, x=X, **compiled):
    """Likewise with `y` as target."""
    for own in (False, True):
        for name, door in LEARN.items():
            net = make_network(own, **compiled)
            yield f"{name}, {'own layers' if own else 'engine'}", net, (
                lambda net=net, door=door: door(net, x, y))


# ---- Estimators --------------------------------------------------------------------------------

def quiet(call):
    """The call without scikit-learn's warnings about few iterations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return call()


def make_estimator(kind="MLPClassifier", y=None, **options):
    sklearn = pytest.importorskip("fastnet.sklearn")
    model = getattr(sklearn, kind)(hidden_layer_sizes=(6,), max_iter=4, random_state=0, **options)
    return quiet(lambda: model.fit(X, Y if y is None else y))


def estimator_state(model):
    """Everything that a refused call must leave as it was."""
    kept = {name: value for name, value in vars(model).items() if name.endswith("_")}
    arrays = [*model.coefs_, *model.intercepts_]
    return ([array.tobytes() for array in arrays], model.predict(X).tobytes(),
            {name: repr(kept[name]) for name in sorted(kept) if name not in ("coefs_", "network_",
                                                                             "intercepts_")})


FITS = {
    "fit": lambda m, x, y, weights=None: m.fit(x, y, weights),
    "partial_fit": lambda m, x, y, weights=None: m.partial_fit(x, y, weights),
    "fit after warm_start": lambda m, x, y, weights=None: m.set_params(
        warm_start=True).fit(x, y, weights),
    "fit by lbfgs": lambda m, x, y, weights=None: m.set_params(solver="lbfgs").fit(x, y, weights),
}
ANSWERS = {"MLPClassifier": Y, "MLPRegressor": X[:, 0]}


def through_estimators(x, **options):
    """Yield each door as its name, an estimator, and a call of it with `x` as inputs."""
    for kind, answers in ANSWERS.items():
        y = answers[np.arange(len(x)) % N] if hasattr(x, "__len__") else answers[:1]
        doors = {**FITS,
                 "predict": lambda m, x, y: m.predict(x),
                 "score": lambda m, x, y: m.score(x, y),
                 "fit with these for validation": lambda m, x, y, of=answers: m.fit(
                     X, of, X_val=x, y_val=y)}
        if kind == "MLPClassifier":
            doors["predict_proba"] = lambda m, x, y: m.predict_proba(x)
            doors["predict_log_proba"] = lambda m, x, y: m.predict_log_proba(x)
        for name, door in doors.items():
            model = make_estimator(kind, answers, **options)
            yield f"{kind}.{name}", model, (
                lambda model=model, door=door, y=y: quiet(lambda: door(model, x, y)))


def weights_through_estimators(weights, **options):
    """Likewise with `weights` as sample_weight."""
    for kind, answers in ANSWERS.items():
        for name, door in FITS.items():
            model = make_estimator(kind, answers, **options)
            yield f"{kind}.{name}", model, (
                lambda model=model, door=door, y=answers: quiet(lambda: door(model, X, y, weights)))


def answers_through_estimators(kind, y, good=None):
    """Likewise with `y` as targets of one kind of estimator; `good`: what it has learnt before."""
    good = ANSWERS[kind] if good is None else good
    doors = {**FITS, "fit with these for validation": lambda m, x, y: m.fit(
        x, good, X_val=x, y_val=y)}
    for name, door in doors.items():
        model = make_estimator(kind, good)
        yield f"{kind}.{name}", model, (
            lambda model=model, door=door: quiet(lambda: door(model, X, y)))


# ---- The command line --------------------------------------------------------------------------

def command(*arguments):
    """Return status, output and errors of `python -m fastnet ...`."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = _cli.main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code
    return status, out.getvalue(), errors.getvalue()


def table(rows, header="a,b,c,kind"):
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


ROWS = [[*X[i, :3].round(3).tolist(), "xy"[i % 2]] for i in range(N)]


# ---- Files -------------------------------------------------------------------------------------

def write_files(folder):
    """Write a file of each kind that is read again; return its path and its reader by name."""
    net = make_network(optimizer="adam")
    net.fit(X, Y, verbose=0, rng=0)
    net.save(folder / "network")
    net.fit(X, Y, verbose=0, rng=0, callbacks=[fn.callbacks.Checkpoint(folder / "checkpoint")])
    files = {
        "network": fn.load,
        "checkpoint": lambda path: make_network(optimizer="adam").fit(
            X, Y, epochs=2, verbose=0, rng=0,
            callbacks=[fn.callbacks.Checkpoint(path, resume=True)])}
    with contextlib.suppress(ImportError):
        make_estimator().save(folder / "estimator")
        files["estimator"] = fn.load
    (folder / "table.csv").write_text(table(ROWS))
    status, _, errors = command("train", folder / "table.csv", "--target", "kind", "--epochs", 1,
                                "--out", folder / "model", "--force")
    assert status == 0, errors
    (folder / "model.safetensors").rename(folder / "model")

    def read_model(path):
        status, _, errors = command("predict", path, folder / "table.csv")
        if status:
            raise fn.ModelFileError(errors)

    files["model"] = read_model
    return {name: (folder / name, read) for name, read in files.items()}
