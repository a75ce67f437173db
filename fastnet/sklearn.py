"""scikit-learn's multi-layer perceptrons, trained by fastnet.

`MLPClassifier` and `MLPRegressor` are subclasses of scikit-learn's, with its parameters, defaults
and attributes, its checks and its messages. Only what takes the time is replaced: the words become
a `Sequential`, `network_`, which the engine trains. Equal random states give equal starting weights
and orders of samples, so that results are scikit-learn's but for rounding. Needs the extra
`[sklearn]`.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from numbers import Integral, Real
from operator import attrgetter, is_, setitem
from typing import Any

import numpy as np
import scipy.optimize
from scipy.special import xlogy
from sklearn import neural_network as theirs
from sklearn.base import _fit_context, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import (
    assert_all_finite,
    check_consistent_length,
    check_random_state,
    compute_sample_weight,
)
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from fastnet import activations
from fastnet._convert import (
    Call,
    copying,
    holds_mask,
    numeric,
    set_random_state,
    whole,
    within,
)
from fastnet._distributed import SharedFitting
from fastnet._engine import Use
from fastnet._fitting import Fitting, Portion, Samples, Tally
from fastnet._ops import (
    activation_forward,
    adam_rates,
    as_floats,
    at_once,
    counts,
    exp_forward,
    softmax_forward,
    sum_of_squares,
)
from fastnet._ranks import Ranks, all_or_none, ranks_of
from fastnet._state_file import write_state
from fastnet._trainer import Trainer, objective_of
from fastnet.callbacks import Callback, Checkpoint, check_callbacks
from fastnet.history import History
from fastnet.initializers import Zeros
from fastnet.layers import Dense, Dropout, LayerNorm
from fastnet.losses import BinaryCrossEntropy, Loss, MeanSquaredError, Poisson, SoftmaxCrossEntropy
from fastnet.network import Predictor, Sequential
from fastnet.optimizers import SGD, Adam

__all__ = ["MLPClassifier", "MLPRegressor"]

NOT_FINITE = ("Solver produced non-finite parameter weights. The input data may contain large "
              "values and need to be preprocessed.")
KEPT_LOSSES = 1000      # of the latest calls of partial_fit, so that memory does not grow
ACTIVATIONS = {"logistic": "sigmoid"}           # their word and ours
NOT_BY_LBFGS = ("dropout", "weight_decay", "clip_norm", "callbacks")
THEIR_ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
OF_OPTIMIZER = ("solver", "learning_rate", "learning_rate_init", "power_t", "momentum",
                "nesterovs_momentum", "beta_1", "beta_2", "epsilon", "weight_decay", "clip_norm")
UNKEPT = ("_quick", "_in_use", "_has_stepped")      # attributes that copies do without


# ---- Conventions -------------------------------------------------------------------------------
#
# Their gradients are sums over outputs and means over samples; those of our losses are means over
# entries. `factor` is theirs over ours, and goes into the optimizers' numbers. Their decay, alpha
# over the samples of a batch, is a number of each step.

class _Conventions:
    """What both of their optimizers share: the gradient's factor, and each step's own decay."""

    _lr: float
    options: dict[str, Any]         # parameters of the estimator that it was made for, as of then
    factor = 1.0
    decays: Any = 0.0

    @property
    def learning_rate(self) -> float:
        """The learning rate, as theirs call it."""
        return float(self._lr)

    @property
    def constant(self) -> bool:
        """See `Optimizer.constant`: decay is not."""
        return False


class _SGD(_Conventions, SGD):
    """Their momentum: the learning rate inside the velocity, so that it counts for what it was."""

    def __init__(self, lr: float, momentum: float, nesterov: bool, factor: float,
                 **options: Any) -> None:
        super().__init__(lr, decay_vectors=False, **options)
        self._momentum = float(momentum)        # 1 is allowed here
        self._nesterov = bool(nesterov and momentum)
        self.factor = factor

    def rates(self, steps: int) -> np.ndarray:
        """See `Optimizer.rates`."""
        rates = np.ones((steps, 4))
        if not self._momentum:
            rates[:, 0] = self._lr * self.factor
        rates[:, 3] = self.decays
        return rates

    def numbers(self) -> dict[str, float]:
        """See `Optimizer.numbers`."""
        if not self._momentum:
            return {}
        gain = self._lr * self.factor
        if self._nesterov:
            return {"momentum": self._momentum, "gain": gain, "look": self._momentum,
                    "direct": gain}
        return {"momentum": self._momentum, "gain": gain}


class _Adam(_Conventions, Adam):
    """Their Adam: epsilon stands beside the root of the mean that is not corrected yet."""

    def __init__(self, lr: float, betas: tuple[float, float], eps: float, own_decay: float,
                 factor: float, **options: Any) -> None:
        super().__init__(lr, betas, eps, decay_vectors=False, **options)
        self._weight_decay_itself = own_decay
        self.factor = factor

    @property
    def _own_decay(self) -> float:
        return self._weight_decay_itself

    def rates(self, steps: int) -> np.ndarray:
        """See `Optimizer.rates`."""
        rates: np.ndarray = adam_rates(
            [self._lr], self.steps, steps, self._beta1, self._beta2, self._own_decay, 0.0, False)
        rates[:, 3] = self.decays
        return rates

    def numbers(self) -> dict[str, float]:
        """See `Optimizer.numbers`."""
        return super().numbers() | {"eps": self._eps / self.factor}


class _Trainer(Trainer):
    """Steps with their decay and their way to report; a divergence ends in losses of NaN.

    Parameters
    ----------
    alpha : float
        Their L2 penalty.
    penalty : float
        What it is for the engine's objective.
    shared : bool
        Whether steps are taken with other ranks. Then sums over a batch are known when those of all
        ranks are, in `reported`: its decay, its penalty and its mean.
    """

    def __init__(
        self, network: Sequential, optimizer: _SGD | _Adam, loss: Loss, alpha: float,
        penalty: float, shared: bool = False,
    ) -> None:
        super().__init__(network, optimizer, loss, (), False)
        self._objective = objective_of(
            loss, network.dtype, penalty=0.0 if shared else penalty, by_rows=not shared)
        self._penalty, self._shared = penalty, shared
        self.alpha, self.diverged = alpha, False
        self.constants: np.ndarray | None = None        # that are added to each sample's loss
        self._sized: int | None = None          # of how many samples the optimizer has the decays

    def train_on(
        self, portion: Portion, batch_size: int, place: str, number: int, tally: Tally,
        update: bool,
    ) -> float:
        """As of `Trainer`."""
        if self.diverged:
            return self._lost(tally)
        n = len(portion.x) if portion.order is None else len(portion.order)
        if self._shared:
            rows: Any = slice(None) if portion.order is None else portion.order
            self._add_constants(tally, portion.y[rows],
                                None if portion.weights is None else portion.weights[rows])
            return super().train_on(portion, batch_size, place, number, tally, update)
        if portion.weights is not None or self.constants is not None or self._sized != n:
            self._weigh(portion, n, batch_size, tally)
        try:
            return super().train_on(portion, batch_size, place, number, tally, update)
        except FloatingPointError:
            self.diverged = True
            return self._lost(tally)

    def reported(self, total: float, shares: float, rows: float) -> tuple[float, float]:
        """As of `Trainer`; also gives the optimizer the batch's decay."""
        optimizer: Any = self.optimizer
        if shares == 0:                 # as the engine does, without any weight
            optimizer.decays = 0.0
            return 0.0, 0.0
        optimizer.decays = self.alpha * self._entries() / shares / optimizer.factor
        squares = sum(sum_of_squares(layer.weight) for layer in self._network.layers
                      if isinstance(layer, Dense))
        return (total + 0.5 * self._penalty * squares) / shares * rows, rows

    def _add_constants(self, tally: Tally, y: np.ndarray, weights: np.ndarray | None) -> None:
        """Add what the losses of samples lack, as a sum over entries."""
        if self.constants is not None:
            added = _constants(y)
            if weights is not None:
                added *= weights
            tally.total += self._entries() * float(added.sum())

    def _entries(self) -> int:
        """Return how many entries of a sample the loss divides by."""
        if isinstance(self.loss, SoftmaxCrossEntropy):
            return 1
        return int(self._network.layers[-1].out_features)

    @staticmethod
    def _lost(tally: Tally) -> float:
        """Count a portion without a result."""
        tally.add(np.nan, 1, 0, 0)
        return np.nan

    def _weigh(self, portion: Portion, n: int, batch_size: int, tally: Tally) -> None:
        """Give the optimizer each batch's decay, and add what the batches' losses lack."""
        starts = np.arange(0, n, batch_size)
        counts = np.diff(np.append(starts, n)).astype(np.float64)
        sizes, weights = counts, portion.weights
        if weights is not None:
            weights = weights if portion.order is None else weights[portion.order]
            sizes = np.add.reduceat(weights, starts, dtype=np.float64)
        if self.constants is not None:
            # Without an order a portion may be a batch, whose place among all is not known.
            constants = (_constants(portion.y) if portion.order is None
                         else self.constants[portion.order])
            constants = constants if weights is None else constants * weights
            tally.total += float(np.dot(
                _divided(np.add.reduceat(constants, starts), sizes), counts))
        optimizer: Any = self.optimizer
        optimizer.decays = _divided(self.alpha, sizes) / optimizer.factor
        self._sized = n

    def gradients(self, X: np.ndarray, target: np.ndarray, weights: np.ndarray | None) -> float:
        """Leave gradients of the sum of losses on the layers, and return the mean, with penalty."""
        assert self._engine is not None and self._objective is not None
        _, _, value, *_ = self._engine.train(
            X, target, weights, self._objective, len(X), None, False, False, self._steps_of(1),
            False)
        self._engine.forget_pending()
        return value

    def measure(self, samples: Samples) -> Tally:
        """As of `Trainer`."""
        try:
            tally = super().measure(samples)
        except FloatingPointError:
            tally = self.tally()
            self._lost(tally)
            return tally
        self._add_constants(tally, samples.y, samples.weights)
        return tally


def _divided(numbers: Any, sizes: np.ndarray) -> np.ndarray:
    """Return the quotients, and 0 for batches without any weight, which have no loss nor decay."""
    found: np.ndarray = np.divide(numbers, sizes, out=np.zeros_like(sizes), where=sizes != 0)
    return found


def _constants(target: np.ndarray) -> np.ndarray:
    """Return what their Poisson loss adds to ours, for each sample."""
    found: np.ndarray = (xlogy(target, target) - target).mean(axis=1, dtype=np.float64)
    return found


class _Orders:
    """Their orders of samples: each epoch shuffles the order of the epoch before."""

    def __init__(self, random_state: np.random.RandomState, n: int) -> None:
        self._source, self._order = random_state, np.arange(n)

    def permutation(self, n: int) -> np.ndarray:
        indices = np.arange(n)
        self._source.shuffle(indices)
        self._order = self._order[indices]
        return self._order

    @property
    def bit_generator(self) -> _Orders:
        """What checkpoints keep: it has a `state`."""
        return self

    @property
    def state(self) -> dict[str, Any]:
        """Where the orders stand."""
        state: Any = self._source.get_state(legacy=False)
        return {"bit_generator": state["bit_generator"], "source": state, "order": self._order}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        order = np.array(state["order"])
        if not np.array_equal(np.sort(order), np.arange(len(self._order))):
            raise ValueError(f"its order is not one of {len(self._order)} samples")
        set_random_state(self._source, state["source"])
        self._order = order


class _Convergence(Callback):
    """What they do at the end of an epoch: keep books, and stop where nothing gets better."""

    def __init__(
        self, estimator: Any, trainer: _Trainer, n: int, validation: Any, grows: bool
    ) -> None:
        self.estimator, self.trainer, self.n = estimator, trainer, n
        self.validation, self.grows = validation, grows

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the loss, or the validation score."""
        assert logs is not None
        own = self.estimator
        if self.trainer.diverged and self.validation is None:
            self.model.stop_training = True     # with an error: there is nothing to go back to
            return
        own.n_iter_ += 1
        own.loss_ = logs["loss"] * own._report
        own.t_ += self.n
        own.loss_curve_.append(own.loss_)
        if not self.grows:
            del own.loss_curve_[:-KEPT_LOSSES]
        if "val_loss" in logs:
            own.validation_loss_curve_.append(logs["val_loss"] * own._report)
        if own.verbose:
            print(f"Iteration {own.n_iter_}, loss = {own.loss_:.8f}")
        self._count()
        optimizer = own._optimizer
        if self._changes_rate("invscaling"):
            of = optimizer.options
            optimizer.lr = float(of["learning_rate_init"]) / (own.t_ + 1) ** of["power_t"]
        if own._no_improvement_count > own.n_iter_no_change:
            self._stop(optimizer)

    def _changes_rate(self, way: str) -> bool:
        """Return whether the learning rate changes in this way."""
        options = self.estimator._optimizer.options
        return bool(options["solver"] == "sgd" and options["learning_rate"] == way)

    def _count(self) -> None:
        """Count the epochs in a row that were not better by tol, as they do."""
        own = self.estimator
        if self.validation is None:
            own._update_no_improvement_count(False, None, None, None)
            return
        before = own.best_validation_score_
        own._update_no_improvement_count(True, *self.validation)
        if own.best_validation_score_ != before:
            own._best = [value.copy() for _, value, _ in own.network_.parameters()]

    def _stop(self, optimizer: Any) -> None:
        """Stop, or where the learning rate is adaptive divide it by 5."""
        own = self.estimator
        what = "Training loss" if self.validation is None else "Validation score"
        message = (f"{what} did not improve more than tol={own.tol:f} for {own.n_iter_no_change} "
                   "consecutive epochs.")
        adaptive = self._changes_rate("adaptive")
        if adaptive and optimizer.lr > 1e-6:
            optimizer.lr = optimizer.lr / 5
            own._no_improvement_count = 0
            message += f" Setting learning rate to {optimizer.lr:f}"
        else:
            self.model.stop_training = True
            message += " Learning rate too small. Stopping." if adaptive else " Stopping."
        if own.verbose:
            print(message)

    def _answers(self) -> str:
        """Return what the estimator's answers mean, in words."""
        own = self.estimator
        classes = f" of {own.classes_.tolist()}" if is_classifier(own) else ""
        return f"{type(own).__name__}, {own.out_activation_}{classes}"

    def state_dict(self) -> dict[str, Any]:
        """Return the books, and the best parameters that early stopping has found."""
        own = self.estimator
        return {"answers": self._answers(),
                "books": {name: getattr(own, name) for name in OF_EPOCHS if hasattr(own, name)},
                "best": None if self.validation is None else own._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, or not at all where the fit had come to its end."""
        own = self.estimator
        vars(own).update(state["books"])
        if self.validation is not None:
            own._best = state["best"]
        if own._no_improvement_count > own.n_iter_no_change:
            self.model.stop_training = True

    def _check_state(self, state: Any, parameters: dict[str, Any]) -> None:
        books, stops_early = state["books"], self.validation is not None
        if state["answers"] != self._answers():
            raise ValueError(f"it is of {state['answers']!s:.100}, not {self._answers():.100}")
        if set(books) != set(OF_EPOCHS):
            raise ValueError(f"its books are {', '.join(map(str, books))}")
        _check_books(vars(self.estimator) | books, True)
        for name in ("best_loss_", "validation_scores_", "best_validation_score_"):
            if (books[name] is None) != (stops_early == (name == "best_loss_")):
                raise ValueError("early_stopping was not the same")
        if stops_early and [(best.shape, best.dtype) for best in state["best"]] != [
                (value.shape, value.dtype) for value in parameters.values()]:
            raise ValueError("its best parameters do not fit")


# ---- The estimators ----------------------------------------------------------------------------

@contextmanager
def _naming(**given: Any) -> Iterator[None]:
    """Refuse by name what scikit-learn does not: masks, and whole numbers too large for floats."""
    for name, value in given.items():
        if holds_mask(value):
            numeric(value, name)
    try:
        yield
    except OverflowError as error:
        for name, value in given.items():
            if _overflows(value):
                raise ValueError(f"{name} holds a number too large for float64") from error
        raise


def _overflows(value: Any) -> bool:
    """Return whether there is a whole number in it that no float holds."""
    try:
        np.asarray(value, np.float64)
    except OverflowError:
        return True
    except (TypeError, ValueError):
        pass
    return False


EXTRA: dict[str, list[Any]] = {
    "activation": [StrOptions({*THEIR_ACTIVATIONS, *activations.NAMES}), list, tuple],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
    "layer_norm": ["boolean"],
    "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    "callbacks": [list, tuple, None],
    "dtype": [StrOptions({"float32", "float64"}), np.dtype, type, None],
}


class _MLP(BaseMultilayerPerceptron):
    """What both estimators put in place of theirs."""

    label_smoothing = 0.0
    class_weight: Any = None
    _random_state: np.random.RandomState
    _quick: _Quick | None
    _has_stepped: bool                          # in the fit under way

    # ---- From words to a network ---------------------------------------------------------------

    def _sizes(self) -> list[int]:
        """Return the width of each hidden layer."""
        try:
            sizes = list(self.hidden_layer_sizes)
        except TypeError:
            sizes = [self.hidden_layer_sizes]
        if min((whole(size, "hidden_layer_sizes") for size in sizes), default=1) <= 0:
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return sizes

    def _init_coef(self, fan_in: int, fan_out: int, dtype: np.dtype) -> tuple[Any, Any]:
        """Return the first weights and bias of a layer, as theirs."""
        try:
            found: tuple[Any, Any] = super()._init_coef(fan_in, fan_out, dtype)
        except (OverflowError, ValueError) as error:        # of a size that no array has
            raise MemoryError(f"no memory holds {fan_in} x {fan_out} weights") from error
        return found

    def _activations(self, n_hidden: int) -> list[str]:
        """Return the name of each hidden layer's activation."""
        names = self.activation
        names = [names] * n_hidden if isinstance(names, str) else list(names)
        if len(names) != n_hidden:
            raise ValueError(f"activation must have one name for each of {n_hidden} hidden layers, "
                             f"got {names!r}")
        for name in names:
            if not isinstance(name, str) or ACTIVATIONS.get(name, name) not in activations.NAMES:
                raise ValueError(f"activation must hold names, among them 'logistic', 'gelu' and "
                                 f"'silu', got {name!r}")
        return names

    def _build(self, coefs: Sequence[Any], intercepts: Sequence[Any], dtype: np.dtype) -> None:
        """Make the network with these weights, which are its own from now on."""
        layers: list[Any] = []
        self._dense = []
        names = self._activations(len(coefs) - 1)
        for index, (weight, bias) in enumerate(zip(coefs, intercepts, strict=True)):
            dense = Dense(*weight.shape, weight_init=Zeros(), dtype=dtype)
            dense.weight, dense.bias = weight, bias
            layers.append(dense)
            self._dense.append(dense)
            if index == len(coefs) - 1:
                break
            if self.layer_norm:
                layers.append(LayerNorm(weight.shape[1], dtype=dtype))
            layers.append(activations.get(ACTIVATIONS.get(names[index], names[index])))
            if self.dropout:
                layers.append(Dropout(self.dropout, rng=int(self._random_state.randint(2**31))))
        self.network_ = Sequential(layers, self.n_threads)
        self.coefs_ = [dense.weight for dense in self._dense]
        self.intercepts_ = [dense.bias for dense in self._dense]

    def _check_built(self, sizes: list[int]) -> None:
        """ValueError where the parameters make another network than there is."""
        layers, n = self.network_.layers, len(self._dense) - 1
        widths = [dense.out_features for dense in self._dense[:-1]]
        between = [repr(layer) for layer in layers
                   if not isinstance(layer, (Dense, LayerNorm, Dropout))]
        dropped = [layer.p for layer in layers if isinstance(layer, Dropout)]
        norms = sum(isinstance(layer, LayerNorm) for layer in layers)
        for name, same in (
                ("hidden_layer_sizes", sizes == widths),
                ("activation", between == [
                    repr(activations.get(ACTIVATIONS.get(word, word)))
                    for word in self._activations(n)]),
                ("dropout", dropped == [self.dropout] * n * bool(self.dropout)),
                ("layer_norm", norms == n * self.layer_norm),
                ("dtype", self.dtype is None or self.network_.dtype == self.dtype),
                ("loss", (self.out_activation_ == "exp") == (self.loss == "poisson"))):
            if not same:
                raise ValueError(f"{name} was not {getattr(self, name)!r} when the network was "
                                 "built: set it back, or fit anew without warm_start")

    def _synchronise(self) -> None:
        """Take weights over that somebody put into `coefs_` and `intercepts_`."""
        if vars(self).get("_dense") is None:    # set by hand, and never fitted
            coefs = self._listed("coefs_")
            intercepts = self._listed("intercepts_", len(coefs))
            dtype = np.dtype(np.float32 if all(
                getattr(coef, "dtype", None) == np.float32 for coef in coefs) else np.float64)
            self._random_state = check_random_state(self.random_state)
            self._build([as_floats(coef, f"coefs_[{i}]", dtype) for i, coef in enumerate(coefs)],
                        [as_floats(bias, f"intercepts_[{i}]", dtype)
                         for i, bias in enumerate(intercepts)], dtype)
            return
        self.network_.n_threads = self.n_threads
        if self._is_own():
            return
        calls: list[Call] = []
        for name, places in (("coefs_", [dense.weight for dense in self._dense]),
                             ("intercepts_", [dense.bias for dense in self._dense])):
            own, given = getattr(self, name), self._listed(name, len(places))
            for index, (value, place) in enumerate(zip(given, places, strict=True)):
                if value is not place:
                    found = as_floats(value, f"{name}[{index}]", place.dtype)
                    if found.shape != place.shape:
                        raise ValueError(f"{name}[{index}] must have shape {place.shape}, got "
                                         f"{found.shape}")
                    calls += copying([place], [found.copy()])   # it may be another one's place
            calls.append((setitem, (own, slice(None), places)) if type(own) is list else
                         (setattr, (self, name, places)))
        at_once(calls)

    def _listed(self, name: str, n: int | None = None) -> list[Any]:
        """Return what `coefs_` or `intercepts_` hold; an error where that is no list of n."""
        value = getattr(self, name)
        try:
            found = list(value)
        except TypeError as error:
            raise TypeError(f"{name} must be a list of arrays, got {value!r}") from error
        if n is not None and len(found) != n:
            raise ValueError(f"{name} must hold {n} arrays, got {len(found)}")
        return found

    def _is_own(self) -> bool:
        """Return whether `coefs_` and `intercepts_` are the network's arrays."""
        coefs, biases, dense = self.coefs_, self.intercepts_, self._dense
        return (type(coefs) is list and type(biases) is list
                and len(coefs) == len(biases) == len(dense)
                and all(coef is one.weight and bias is one.bias
                        for coef, bias, one in zip(coefs, biases, dense, strict=True)))

    def _loss_of_training(self) -> Loss:
        if self.out_activation_ == "softmax":
            return SoftmaxCrossEntropy(label_smoothing=self.label_smoothing)
        if self.out_activation_ == "logistic":
            return BinaryCrossEntropy()
        return Poisson() if self.out_activation_ == "exp" else MeanSquaredError()

    def _scales(self) -> tuple[float, float, float]:
        """Return their gradient over ours, their loss over ours, and their penalty in ours."""
        k = self.n_outputs_
        return {"softmax": (1.0, 1.0, 1.0), "logistic": (k, k, 1.0), "exp": (k, k, 1.0),
                "identity": (k / 2, 0.5, 2.0 * k)}[self.out_activation_]

    def _make_optimizer(self, factor: float) -> _SGD | _Adam:
        clip = None if self.clip_norm is None else self.clip_norm / factor
        optimizer: _SGD | _Adam
        if self.solver == "sgd":
            if self.weight_decay:
                raise ValueError("weight_decay needs solver='adam', which becomes AdamW with it")
            optimizer = _SGD(self.learning_rate_init, self.momentum, self.nesterovs_momentum,
                             factor, clip_norm=clip)
        else:
            optimizer = _Adam(self.learning_rate_init, (self.beta_1, self.beta_2), self.epsilon,
                              self.weight_decay, factor, clip_norm=clip)
        optimizer.options = self._optimizer_options()
        return optimizer

    def _optimizer_options(self) -> dict[str, Any]:
        """Return the parameters that an optimizer is made of."""
        return {name: getattr(self, name) for name in OF_OPTIMIZER}

    # ---- Fitting -------------------------------------------------------------------------------

    @property
    def _use(self) -> Use:
        """Who is at work on the estimator."""
        use: Use = self.__dict__.setdefault("_in_use", Use())
        return use

    def _fit(
        self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False,
        validation: tuple[Any, Any] | None = None, ranks: Ranks | None = None,
    ) -> Any:
        """Fit; what fails before the first step leaves the estimator as it was."""
        X_val, y_val = validation or (None, None)
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together, got "
                             f"{'y_val' if X_val is None else 'X_val'} alone")
        with (_naming(X=X, y=y, sample_weight=sample_weight, X_val=X_val, y_val=y_val),
              self._use.exclusive):
            before, self._has_stepped = dict(vars(self)), False
            try:
                return self._fit_alone(X, y, sample_weight, incremental, validation, ranks)
            except BaseException:
                if not self._has_stepped:
                    self._put_back(before)
                raise

    def _put_back(self, attributes: dict[str, Any]) -> None:
        """Have these attributes again, and no others."""
        for name in vars(self).keys() - attributes.keys():
            delattr(self, name)
        self.__dict__.update(attributes)

    def _fit_alone(
        self, X: Any, y: Any, sample_weight: Any, incremental: bool,
        validation: tuple[Any, Any] | None, ranks: Ranks | None,
    ) -> Any:
        sizes = self._sizes()
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if incremental and any(isinstance(callback, Checkpoint) and callback.resume
                               for callback in self.callbacks or ()):
            raise ValueError("partial_fit does not support Checkpoint(resume=True): each call "
                             "would go back to its file")
        if self.solver == "lbfgs":      # which takes no steps, and wants one loss for one point
            for name, given in (
                    *((name, getattr(self, name)) for name in NOT_BY_LBFGS),
                    ("X_val", validation is not None), ("comm", ranks is not None)):
                if given:
                    raise ValueError(f"{name} needs solver='sgd' or 'adam', got 'lbfgs'")
        first = not hasattr(self, "coefs_") or not self.warm_start and not incremental
        labels = y
        X, y = self._validate_input(X, y, incremental, reset=first)
        y = y.reshape(len(y), -1)
        self._random_state = check_random_state(self.random_state)
        if ranks is not None:
            self._share_random_state(ranks)
        if first:
            dtype = np.dtype(X.dtype if self.dtype is None else self.dtype)
            if dtype not in ("float32", "float64"):
                raise ValueError(f"dtype must be float32, float64 or None, got {self.dtype!r}")
            self._initialize(y, [X.shape[1], *sizes, y.shape[1]], dtype)
            self._build(self.coefs_, self.intercepts_, dtype)
            if hasattr(self, "_optimizer"):
                del self._optimizer
        else:
            self._synchronise()
            self._check_built(sizes)
            self._check_outputs(y, "y")
        self._best = [value.copy() for _, value, _ in self.network_.parameters()]
        self.n_outputs_ = y.shape[1]
        X = self._as_taken(X)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(
                sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
        if self.class_weight is not None:
            self._check_class_weight()
            by_class = compute_sample_weight(self.class_weight, labels)
            weights = _check_sample_weight(
                by_class if weights is None else by_class * weights, X, dtype=X.dtype)
        with self.network_._use.training:       # nor does another thread train the network itself
            if self.solver == "lbfgs":
                self._fit_lbfgs(X, self._target(y), weights)
            else:
                self._fit_stochastic(X, y, weights, incremental, validation, ranks)
        if not all(np.isfinite(value).all() for _, value, _ in self.network_.parameters()):
            raise ValueError(NOT_FINITE)
        return self

    def _check_class_weight(self) -> None:
        """TypeError or ValueError for a weight that is no number, negative or not finite."""
        given = self.class_weight
        for weights in given if isinstance(given, list) else [given]:
            if isinstance(weights, dict):
                for label, weight in weights.items():
                    within(weight, f"class_weight[{label!r}]", "[0, inf)")

    def _share_random_state(self, ranks: Ranks) -> None:
        """Go on with the random numbers that rank 0 has."""
        state = ranks.exchange(self._random_state.get_state(legacy=False))[0]
        if self.random_state is None:           # NumPy's own, which is not for us to set
            self._random_state = np.random.RandomState()
        self._random_state.set_state(state)

    def _share_books(self, ranks: Ranks) -> None:
        """Take over what rank 0 has noted."""
        found = ranks.exchange(
            {name: getattr(self, name) for name in (*SAVED_BOOKS, "_best") if hasattr(self, name)}
            if ranks.rank == 0 else None)[0]
        for name, value in (found or {}).items():
            setattr(self, name, value)

    def _quick_step(self, X: Any, y: Any, classes: Any = None) -> bool:
        """Take the step of a `partial_fit` that needs no check of scikit-learn's, or return False.

        That is one batch of finite samples in a plain array of the network's dtype, without names,
        weights or callbacks, after a `partial_fit` that was checked, with the same `classes`.
        """
        quick: _Quick | None = vars(self).get("_quick")
        if quick is None or not (
                (classes is None or classes is quick.classes)
                and type(X) is np.ndarray and type(y) is np.ndarray and X.dtype == quick.dtype
                and X.ndim == 2 and X.shape[1] == quick.features and y.ndim == 1
                and 0 < len(X) == len(y) <= quick.most and X.flags.carray
                and quick.is_of(self) and not self.callbacks and self._is_own()
                and np.isfinite(X).all()):
            return False
        labels = quick.encoded(y)
        if labels is None:
            return False
        target = labels if self.out_activation_ == "softmax" else self._target(labels)
        tally = quick.trainer.tally()
        with self._use.exclusive, self.network_._use.training:
            order = quick.order(len(X))
            quick.trainer.train_on(Portion(X, target, None, order), len(X), "", 0, tally, True)
        if quick.trainer.diverged:
            self._quick = None                  # the next call begins with another trainer
            raise ValueError(NOT_FINITE)
        self.n_iter_ = 0
        quick.books.n = len(X)
        quick.books.on_epoch_end(0, {"loss": tally.loss})
        return True

    def _as_taken(self, X: Any) -> np.ndarray:
        """Return samples as the network takes them; sparse ones become dense."""
        X = X.toarray() if hasattr(X, "toarray") else X
        taken: np.ndarray = as_floats(X, "X", self.network_.dtype)
        return taken

    def _target(self, y: np.ndarray, name: str = "y") -> np.ndarray:
        """Return labels of several classes as indices, and anything else as rows."""
        if self.out_activation_ == "softmax":
            labels: np.ndarray = y.argmax(axis=1)
            return labels
        rows: np.ndarray = as_floats(y, name, self.network_.dtype)
        smoothing = self.label_smoothing
        if not smoothing:
            return rows
        return (rows * (1 - smoothing) + smoothing / 2).astype(rows.dtype)

    def _fit_stochastic(
        self, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None, incremental: bool,
        validation: tuple[Any, Any] | None, ranks: Ranks | None,
    ) -> None:
        self._quick = None
        factor, self._report, penalty = self._scales()
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._make_optimizer(factor)
        held_out = None
        if self.early_stopping:
            X, y, weights, held_out = self._hold_out(X, y, weights)
        samples = self._samples(validation, held_out)
        target, n = self._target(y), len(X)
        if self.batch_size == "auto":
            batch_size = min(200, n)
        else:
            if self.batch_size > n:
                warnings.warn("Got `batch_size` less than 1 or larger than sample size. It is "
                              "going to be clipped", stacklevel=4)
            batch_size = min(self.batch_size, n)
        loss = self._loss_of_training()
        trainer = _Trainer(self.network_, self._optimizer, loss, self.alpha, penalty * self.alpha,
                           ranks is not None)
        self.n_iter_ = 0
        self.validation_loss_curve_: list[float] = []
        trainer.constants = self._constants(target)
        books = _Convergence(self, trainer, n, held_out, not incremental)
        fitting = (Fitting if ranks is None else partial(SharedFitting, ranks, True))(
            self.network_, trainer, Samples(X, target, weights), samples, rows=batch_size,
            epochs=1 if incremental else self.max_iter, epoch=0,
            orders=_Orders(self._random_state, n) if self.shuffle else None, parts=1,
            callbacks=[books, *check_callbacks(self.callbacks or ())])
        steps = self._optimizer.steps
        self.network_._trainer, self.history_ = trainer, fitting.history
        self.network_._current_fit, self.network_.stop_training = fitting, False
        self._has_stepped = True                # said before: it may end right behind a step
        try:
            fitting.run()
        except FloatingPointError:
            if ranks is None:                   # somebody else's
                raise
            trainer.diverged = True
        finally:
            self.network_._current_fit = None
            if counts(self._optimizer.taken, steps):
                self._has_stepped = False
        if ranks is not None:
            self._share_books(ranks)
        speaks = ranks is None or ranks.rank == 0
        if (speaks and not incremental and self.n_iter_ == self.max_iter
                and not self.network_.stop_training):
            warnings.warn(f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and "
                          "the optimization hasn't converged yet.", ConvergenceWarning,
                          stacklevel=4)
        if trainer.diverged and not self.early_stopping:
            raise ValueError(NOT_FINITE)
        if (incremental and weights is None and not self.callbacks and not self.verbose
                and self.out_activation_ != "exp" and not hasattr(self, "feature_names_in_")):
            self._quick = _Quick(self, books)
        if self.early_stopping:
            at_once(copying((value for _, value, _ in self.network_.parameters()), self._best))

    def _hold_out(
        self, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None
    ) -> tuple[Any, ...]:
        """Return samples, targets and weights to train on, and those to take scores on."""
        stratify = y if is_classifier(self) and self.n_outputs_ == 1 else None      # so theirs
        found = train_test_split(
            *([X, y] if weights is None else [X, y, weights]), random_state=self._random_state,
            test_size=self.validation_fraction, stratify=stratify)
        X_train, X_val, y_train, y_val, *rest = found
        weights_train, weights_val = rest or (None, None)
        if len(X_val) < 2:
            raise ValueError("The validation set is too small. Increase 'validation_fraction' or "
                             "the size of your dataset.")
        if is_classifier(self):
            y_val = self._label_binarizer.inverse_transform(y_val)
        return X_train, y_train, weights_train, (X_val, y_val, weights_val)

    def _samples(self, given: tuple[Any, Any] | None, held_out: Any) -> Samples | None:
        """Return what the validation loss is measured on: what the caller gave, or was held out."""
        if given is None and held_out is None:
            return None
        X, y = held_out[:2] if given is None else given
        if given is not None:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
            check_consistent_length(X, y)
        if is_classifier(self):
            y = self._label_binarizer.transform(self._labels(y, "y_val"))
        else:
            y = check_array(y, ensure_2d=False, input_name="y_val")
        y = y.reshape(len(y), -1)
        self._check_outputs(y, "y_val")
        return Samples(self._as_taken(X), self._target(y, "y_val"), None)

    def _labels(self, y: Any, name: str) -> np.ndarray:
        """Return labels as an array; ValueError for a class that the estimator does not know."""
        found: np.ndarray = check_array(
            y, dtype=None, ensure_2d=False, ensure_all_finite=False, input_name=name)
        if self._label_binarizer.y_type_.startswith("multilabel"):
            self._check_outputs(found.reshape(len(found), -1), name)
            return found
        found = column_or_1d(found)
        known = set(self.classes_.tolist())
        for i, label in enumerate(found.tolist()):
            if label not in known:
                raise ValueError(f"{name}[{i}] is {label!r}, but the classes are "
                                 f"{self.classes_.tolist()}")
        return found

    def _check_outputs(self, y: np.ndarray, name: str) -> None:
        """ValueError unless rows have as many columns as the network has outputs."""
        outputs = self._dense[-1].out_features
        if y.shape[1] != outputs:
            raise ValueError(f"{name} must have {outputs} outputs, got {y.shape[1]}")

    # ---- Files ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, network and all that fitting has left; `fastnet.load` reads it.

        The file is as that of `Sequential.save`: `partial_fit` goes on with the same bits.

        Raises
        ------
        ValueError
            There are callbacks, which cannot be saved.
        TypeError
            A parameter that is no number, text or array, nor a list, tuple or dict of these.
        OSError
            The file cannot be written; what stood there is as it was.
        """
        with self._use:
            write_state(path, "estimator", self._file_state())

    def _file_state(self) -> dict[str, Any]:
        """Return what a file holds."""
        parameters = self.get_params(deep=False)
        if parameters["callbacks"]:
            raise ValueError("callbacks cannot be saved: set_params(callbacks=None) first")
        parameters["callbacks"] = source = None
        if isinstance(self.random_state, np.random.RandomState):
            parameters["random_state"] = None
            source = self.random_state.get_state(legacy=False)
        if parameters["dtype"] is not None:
            parameters["dtype"] = np.dtype(parameters["dtype"]).name
        about = {"class": type(self).__name__, "parameters": parameters, "random_state": source}
        network: dict[str, Any] = {"network": None, "optimizer": None}
        if hasattr(self, "coefs_"):
            self._synchronise()
            optimizer = getattr(self, "_optimizer", None)
            network = self.network_._file_state(False) | {
                "optimizer": optimizer and optimizer._state(self.network_.layers) | {
                    "options": optimizer.options}}
            about |= {"books": {name: _in_words(getattr(self, name)) for name in SAVED_BOOKS
                                if hasattr(self, name)},
                      "history": vars(getattr(self, "history_", History()))}
            if hasattr(self, "_label_binarizer"):
                about["y_type"] = self._label_binarizer.y_type_
        return {"estimator": about, **network}

    def _take_file_state(self, about: dict[str, Any], state: dict[str, Any]) -> None:
        """Become what a file's fitted estimator was; one of several errors where it was none."""
        for name, value in about["books"].items():
            if name not in SAVED_BOOKS:
                raise ValueError(f"an estimator has no {name}")
            setattr(self, name, _from_words(value))
        self.network_ = Sequential._of_file_state({**state, "optimizer": None})
        self._dense = [layer for layer in self.network_.layers if isinstance(layer, Dense)]
        self.coefs_ = [dense.weight for dense in self._dense]
        self.intercepts_ = [dense.bias for dense in self._dense]
        self.history_ = History()
        vars(self.history_).update(about["history"])
        outputs = self.n_outputs_
        if is_classifier(self):
            self._label_binarizer = LabelBinarizer()
            kept = vars(self._label_binarizer)
            kept |= {"y_type_": about["y_type"], "classes_": self.classes_, "sparse_input_": False}
            n_classes = len(self.classes_)
            if about["y_type"] not in ("binary", "multiclass", "multilabel-indicator"):
                raise ValueError(f"targets are no {about['y_type']}")
            several = about["y_type"] == "multilabel-indicator" or n_classes > 2
            outputs = n_classes if several else 1
        if (self._dense[0].in_features, self._dense[-1].out_features) != (
                self.n_features_in_, outputs) or self.n_outputs_ != outputs:
            raise ValueError("the network does not fit the estimator")
        _check_books(vars(self), state["optimizer"] is not None)
        if state["optimizer"] is not None:
            # Older files do not say what it was made of.
            made_of = type(self)(**state["optimizer"].get("options", self._optimizer_options()))
            made_of._validate_params()
            self._optimizer = made_of._make_optimizer(self._scales()[0])
            at_once(self._optimizer._restored(self.network_.layers, state["optimizer"]))

    def __getstate__(self) -> dict[str, Any]:
        with self._use:                         # refused while another thread fits
            state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name not in UNKEPT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickle; optimizers of older versions do not say what they were made of."""
        super().__setstate__(state)
        if "_dense" in vars(self):
            with suppress(TypeError, ValueError):       # for which there is a better time
                self._synchronise()                     # the network has another buffer
        optimizer = vars(self).get("_optimizer")
        if optimizer is not None and not hasattr(optimizer, "options"):
            optimizer.options = self._optimizer_options()

    def _fit_lbfgs(self, X: np.ndarray, target: np.ndarray, weights: np.ndarray | None) -> None:
        """Minimise the loss of all samples at once, by SciPy.

        Points are tried on a copy of the network, which itself has the last that was accepted.
        """
        self._quick = None
        factor, report, penalty = self._scales()
        samples = len(X) if weights is None else float(weights.sum(dtype=np.float64))
        network, tried = self.network_, copy.deepcopy(self.network_)
        trainer = _Trainer(tried, _SGD(0.0, 0.0, False, factor), self._loss_of_training(),
                           self.alpha, penalty * self.alpha)
        constants = self._constants(target)
        constant = 0.0 if constants is None else float(np.average(constants, weights=weights))
        dense = [layer for layer in tried.layers if isinstance(layer, Dense)]
        layers = [layer for layer in tried.layers if layer not in dense]
        arrays = [(d.weight, d.weight_grad, True) for d in dense]
        arrays += [(d.bias, d.bias_grad, False) for d in dense]
        arrays += [(value, gradient, False) for layer in layers
                   for _, value, gradient in layer.parameters()]
        ends = np.cumsum([value.size for value, _, _ in arrays])
        entries = samples if self.out_activation_ == "softmax" else samples * self.n_outputs_

        def put(theta: np.ndarray) -> None:
            for (value, _, _), some in zip(arrays, np.split(theta, ends[:-1]), strict=True):
                value[...] = some.reshape(value.shape)

        def accept(theta: np.ndarray, iterations: int = 0) -> None:
            put(theta)
            assert network._parameters is not None
            done = self.n_iter_ + iterations
            with network._use.exclusive:        # no call in it: Ctrl-C comes before all or after
                network._parameters[:] = tried._parameters
                self._has_stepped, self.n_iter_ = True, done

        def count(theta: np.ndarray) -> None:
            accept(theta, 1)

        def loss_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
            put(theta)
            loss = trainer.gradients(X, target, weights)
            gradient = [
                factor / entries * of_sum.ravel().astype(np.float64)
                + (self.alpha / samples * value.ravel() if decays else 0.0)
                for value, of_sum, decays in arrays]
            return (loss + constant) * report, np.concatenate(gradient)

        self.n_iter_ = 0
        found = scipy.optimize.minimize(
            loss_and_gradient,
            np.concatenate([value.ravel() for value, _, _ in arrays]).astype(np.float64),
            method="L-BFGS-B", jac=True, callback=count,
            options={"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol})
        accept(found.x)
        self.loss_ = found.fun
        self.n_iter_ = _check_optimize_result("lbfgs", found, self.max_iter)

    def _constants(self, target: np.ndarray) -> np.ndarray | None:
        """Return what their Poisson loss, a deviance, adds to ours: it is 0 for what is exact."""
        if self.out_activation_ != "exp":
            return None
        return _constants(target)

    # ---- Predicting ----------------------------------------------------------------------------

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> np.ndarray:
        """Return what the output activation makes of the scores, for all that predicts."""
        with _naming(X=X):
            if check_input:
                X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        with self._use:
            self._synchronise()
            return _outputs(self.out_activation_, self.network_.predict(self._as_taken(X)))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of right answers, or R^2, as theirs.

        Parameters
        ----------
        X : array_like or sparse matrix (n, n_features)
        y : array_like (n,) or (n, n_outputs)
        sample_weight : array_like (n,), optional
        """
        with _naming(X=X, y=y, sample_weight=sample_weight):
            return float(super().score(X, y, sample_weight=sample_weight))

    def _predict(self, X: Any, check_input: bool = True) -> np.ndarray:
        with self._use:                         # until scores have become answers
            found: np.ndarray = super()._predict(X, check_input)
            return found

    def _score_with_function(
        self, X: Any, y: Any, sample_weight: Any, score_function: Any
    ) -> float:
        if getattr(self.network_._trainer, "diverged", False):
            return float("nan")
        return float(super()._score_with_function(X, y, sample_weight, score_function))

    def frozen(self) -> _Frozen:
        """Return an immutable copy for fast predictions of plain arrays.

        Its `predict` and `predict_proba` leave scikit-learn's validation out: an array of another
        shape is refused, but names of columns and NaN are not looked at.
        """
        check_is_fitted(self)
        with self._use:
            self._synchronise()
            return _Frozen(self)


class _Quick:
    """What a checked `partial_fit` leaves for the next ones."""

    def __init__(self, estimator: Any, books: _Convergence) -> None:
        self.trainer, self.books = books.trainer, books
        self.classes: Any = None        # as the checked call gave them
        self.features, self.dtype = estimator.n_features_in_, estimator.network_.dtype
        self.most = 200 if estimator.batch_size == "auto" else estimator.batch_size
        self._index: dict[Any, int] | None = None
        self._labels = estimator.out_activation_ == "softmax"
        self._parameters_of = attrgetter(*estimator._get_param_names())
        self._parameters = self._parameters_of(estimator)
        self._source, self._shuffles = estimator.random_state, estimator.shuffle
        self._order: np.ndarray | None = None           # the last
        self._usable = estimator.n_outputs_ == 1        # of numbers: a column of them
        self._kinds = "iuf"                             # of what targets may be
        if is_classifier(estimator):
            # With warm_start all classes have to be there, each time.
            self._usable = not (estimator.warm_start or
                                estimator._label_binarizer.y_type_.startswith("multilabel"))
            self._kinds = "UO" if estimator.classes_.dtype.kind in "UO" else "biuf"
            self._index = {label: i for i, label in enumerate(estimator.classes_.tolist())}

    def is_of(self, estimator: Any) -> bool:
        """Return whether the estimator has the parameters that it had then."""
        return all(map(is_, self._parameters, self._parameters_of(estimator)))

    def order(self, n: int) -> np.ndarray | None:
        """Return the order of samples that a checked call draws; for a seed it is always one."""
        if not self._shuffles:
            return None
        seeded = isinstance(self._source, Integral)
        if self._order is None or len(self._order) != n or not seeded:
            self._order = _Orders(check_random_state(self._source), n).permutation(n)
        return self._order

    def encoded(self, y: np.ndarray) -> np.ndarray | None:
        """Return targets of plain arrays as labels or rows; None for what has to be checked."""
        if not self._usable or y.dtype.kind not in self._kinds:
            return None
        if self._index is None:
            return y.reshape(-1, 1) if np.isfinite(y).all() else None
        try:
            found = np.array([self._index[label] for label in y.tolist()], np.intp)
        except (KeyError, TypeError):
            return None
        return found if self._labels else found.reshape(-1, 1)


def _outputs(kind: str, scores: np.ndarray) -> np.ndarray:
    """Return what an output activation makes of scores."""
    if kind == "softmax":
        return softmax_forward(scores)
    if kind == "logistic":
        return activation_forward(scores, "sigmoid")
    found: np.ndarray = exp_forward(scores) if kind == "exp" else scores
    return found


class _Frozen:
    """A fitted estimator for prediction alone; any number of threads may use one."""

    def __init__(self, estimator: Any) -> None:
        self._network: Predictor = estimator.network_.frozen()
        self._kind: str = estimator.out_activation_
        self._classes: np.ndarray | None = getattr(estimator, "classes_", None)
        binarizer = getattr(estimator, "_label_binarizer", None)
        self._multilabel = binarizer is not None and binarizer.y_type_.startswith("multilabel")

    def predict(self, X: Any) -> np.ndarray:
        """Return the answers: as `predict` of the estimator."""
        scores = self._network.predict(X)
        if self._classes is None:
            found = _outputs(self._kind, scores)
            return found[:, 0] if found.shape[1] == 1 else found
        if self._kind == "softmax":
            answers: np.ndarray = self._classes[scores.argmax(axis=1)]
            return answers
        if self._multilabel:
            return (scores > 0).astype(int)
        last = len(self._classes) - 1           # 0, where there was but one class
        answers = self._classes[np.minimum(scores[:, 0] > 0, last).astype(int)]
        return answers

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities: as `predict_proba` of the classifier."""
        if self._classes is None:
            raise AttributeError("a regressor has no probabilities")
        found = _outputs(self._kind, self._network.predict(X))
        return np.hstack([1 - found, found]) if found.shape[1] == 1 else found


class MLPClassifier(_MLP, theirs.MLPClassifier):
    """scikit-learn's classifier (see `sklearn.neural_network.MLPClassifier`), trained by fastnet.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, \\
    power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, \\
    nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, \\
    n_iter_no_change, max_fun
        As there. `activation` takes fastnet's names too ("gelu", "silu", "elu", "leaky_relu" ...),
        or a list with one for each hidden layer.
    class_weight : dict, list of dicts or "balanced", optional
        What samples count by their class, multiplied with `sample_weight`.
    dropout : float
        In [0, 1): share of each hidden layer's outputs that is dropped in training.
    weight_decay : float
        In [0, inf): decay beside the gradient (AdamW); needs solver "adam".
    clip_norm : float, optional
        Largest norm of all gradients; as of `fastnet.Adam`.
    label_smoothing : float
        In [0, 1): this share of each target is spread over all classes.
    layer_norm : bool
        A `LayerNorm` before each hidden activation.
    callbacks : list of fastnet.callbacks.Callback, optional
        Like `dropout`, `weight_decay` and `clip_norm` not with solver "lbfgs". A `Checkpoint` with
        `resume` is for `fit` alone.
    dtype : {"float32", "float64"}, optional
        To compute in; None: float32 where X is, else float64.
    n_threads : int, optional
        At most so many threads work at a time; None: as many as `fastnet.get_num_threads()`. Bits
        do not depend on it.

    Attributes
    ----------
    classes_, loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, t_, \\
    coefs_, intercepts_, n_features_in_, feature_names_in_, n_iter_, n_layers_, n_outputs_, \\
    out_activation_
        As there. `loss_curve_` keeps the last 1000 calls of `partial_fit`.
    validation_loss_curve_ : list of float
        Loss of the validation data, `X_val` or what early stopping holds out, without penalty.
    history_ : History
        Of the last fit.
    network_ : Sequential
        The network; its scores go through `out_activation_`.
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **theirs.MLPClassifier._parameter_constraints, **EXTRA,
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self, hidden_layer_sizes: Any = (100,), activation: Any = "relu", *, solver: str = "adam",
        alpha: float = 0.0001, batch_size: Any = "auto", learning_rate: str = "constant",
        learning_rate_init: float = 0.001, power_t: float = 0.5, max_iter: int = 200,
        shuffle: bool = True, random_state: Any = None, tol: float = 1e-4, verbose: Any = False,
        warm_start: bool = False, momentum: float = 0.9, nesterovs_momentum: bool = True,
        early_stopping: bool = False, validation_fraction: float = 0.1, beta_1: float = 0.9,
        beta_2: float = 0.999, epsilon: float = 1e-8, n_iter_no_change: Any = 10,
        max_fun: int = 15000, class_weight: Any = None, dropout: float = 0.0,
        weight_decay: float = 0.0, clip_norm: float | None = None, label_smoothing: float = 0.0,
        layer_norm: bool = False, callbacks: Any = None, dtype: Any = None,
        n_threads: int | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes, activation, solver=solver, alpha=alpha, batch_size=batch_size,
            learning_rate=learning_rate, learning_rate_init=learning_rate_init, power_t=power_t,
            max_iter=max_iter, shuffle=shuffle, random_state=random_state, tol=tol,
            verbose=verbose, warm_start=warm_start, momentum=momentum,
            nesterovs_momentum=nesterovs_momentum, early_stopping=early_stopping,
            validation_fraction=validation_fraction, beta_1=beta_1, beta_2=beta_2,
            epsilon=epsilon, n_iter_no_change=n_iter_no_change, max_fun=max_fun)
        self.class_weight, self.dropout, self.weight_decay = class_weight, dropout, weight_decay
        self.clip_norm, self.label_smoothing = clip_norm, label_smoothing
        self.layer_norm, self.callbacks, self.dtype = layer_norm, callbacks, dtype
        self.n_threads = n_threads

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        """Return samples and rows of bool, as theirs; their LabelBinarizer takes its time."""
        if hasattr(self, "classes_") and (self.warm_start or incremental):
            found: tuple[Any, Any] = super()._validate_input(X, y, incremental, reset)
            return found
        X, y = validate_data(self, X, y, accept_sparse=["csr", "csc"], multi_output=True,
                             dtype=(np.float64, np.float32), reset=reset)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._label_binarizer = LabelBinarizer().fit(y)
        self.classes_ = self._label_binarizer.classes_
        if y.ndim == 2:
            return X, self._label_binarizer.transform(y).astype(bool)
        labels = np.searchsorted(self.classes_, y).reshape(-1, 1)
        return X, labels > 0 if len(self.classes_) <= 2 else labels == np.arange(len(self.classes_))

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None,
            y_val: Any = None, comm: Any = None) -> MLPClassifier:
        """Train from the beginning, or with `warm_start` from where it is.

        From where it is the network stays what it was built as: where `hidden_layer_sizes`,
        `activation`, `dropout`, `layer_norm`, `dtype` or a regressor's `loss` were set to something
        else, there is a ValueError. `partial_fit` does so too.

        An error before the first step, as of what cannot be trained on, leaves the estimator as it
        was. A later one, or Ctrl-C, leaves it with the steps taken so far; KeyboardInterrupt is
        raised, where scikit-learn's only warns.

        Parameters
        ----------
        X : array_like or sparse matrix (n, n_features)
        y : array_like (n,) or (n, n_outputs)
        sample_weight : array_like (n,), optional
        X_val, y_val : array_like, optional
            Validation data, for `validation_loss_curve_`; nothing is learnt from it. Not with
            solver "lbfgs".
        comm : mpi4py.MPI.Comm, optional
            Train together with all processes of a communicator, each of which calls this with the
            same data: each takes its part of every batch, and all end with what one process comes
            to, up to rounding. See docs/DISTRIBUTED.md. Not with solver "lbfgs".
        """
        validation = None if X_val is y_val is None else (X_val, y_val)
        with all_or_none(ranks := ranks_of(comm)):
            self._fit(X, y, sample_weight, False, validation, ranks)
        return self

    @available_if(lambda estimator: estimator._check_solver())
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None,
                    classes: Any = None) -> MLPClassifier:
        """Go through the samples once.

        The optimizer, with `solver`, `learning_rate`, `learning_rate_init`, `power_t`, `momentum`,
        `nesterovs_momentum`, `beta_1`, `beta_2`, `epsilon`, `weight_decay` and `clip_norm`, is that
        of the last `fit` or the first call, as scikit-learn's is.

        Parameters
        ----------
        X : array_like or sparse matrix (n, n_features)
        y : array_like (n,) or (n, n_outputs)
        sample_weight : array_like (n,), optional
        classes : array_like, optional
            All classes that will ever come; needed in the first call.
        """
        if sample_weight is not None or not self._quick_step(X, y, classes):
            with _naming(y=y, classes=classes):     # which theirs looks at before `_fit`
                super().partial_fit(X, y, sample_weight=sample_weight, classes=classes)
            if self._quick is not None:
                self._quick.classes = classes
        return self

    @classmethod
    def from_sklearn(cls, fitted: theirs.MLPClassifier) -> MLPClassifier:
        """Return one of ours with the parameters and copies of the weights of one of theirs."""
        found: MLPClassifier = _taken_over(cls(**_known(fitted)), fitted)
        return found

    def to_sklearn(self) -> theirs.MLPClassifier:
        """Return one of theirs with the same weights; ValueError where theirs cannot have them."""
        return _given_back(self, theirs.MLPClassifier)


class MLPRegressor(_MLP, theirs.MLPRegressor):
    """scikit-learn's regressor (see `sklearn.neural_network.MLPRegressor`), trained by fastnet.

    Parameters
    ----------
    loss, hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, \\
    learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, \\
    momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, \\
    n_iter_no_change, max_fun
        As there.
    dropout, weight_decay, clip_norm, layer_norm, callbacks, dtype, n_threads
        As of `MLPClassifier`, and so are more activations.

    Attributes
    ----------
    As of `MLPClassifier`, but for `classes_`.
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **theirs.MLPRegressor._parameter_constraints, **EXTRA}

    def __init__(
        self, loss: str = "squared_error", hidden_layer_sizes: Any = (100,),
        activation: Any = "relu", *, solver: str = "adam",
        alpha: float = 0.0001, batch_size: Any = "auto", learning_rate: str = "constant",
        learning_rate_init: float = 0.001, power_t: float = 0.5, max_iter: int = 200,
        shuffle: bool = True, random_state: Any = None, tol: float = 1e-4, verbose: Any = False,
        warm_start: bool = False, momentum: float = 0.9, nesterovs_momentum: bool = True,
        early_stopping: bool = False, validation_fraction: float = 0.1, beta_1: float = 0.9,
        beta_2: float = 0.999, epsilon: float = 1e-8, n_iter_no_change: Any = 10,
        max_fun: int = 15000, dropout: float = 0.0, weight_decay: float = 0.0,
        clip_norm: float | None = None, layer_norm: bool = False, callbacks: Any = None,
        dtype: Any = None, n_threads: int | None = None,
    ) -> None:
        super().__init__(
            loss, hidden_layer_sizes, activation, solver=solver, alpha=alpha, batch_size=batch_size,
            learning_rate=learning_rate, learning_rate_init=learning_rate_init, power_t=power_t,
            max_iter=max_iter, shuffle=shuffle, random_state=random_state, tol=tol,
            verbose=verbose, warm_start=warm_start, momentum=momentum,
            nesterovs_momentum=nesterovs_momentum, early_stopping=early_stopping,
            validation_fraction=validation_fraction, beta_1=beta_1, beta_2=beta_2,
            epsilon=epsilon, n_iter_no_change=n_iter_no_change, max_fun=max_fun)
        self.dropout, self.weight_decay, self.clip_norm = dropout, weight_decay, clip_norm
        self.layer_norm, self.callbacks, self.dtype = layer_norm, callbacks, dtype
        self.n_threads = n_threads

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        """Return samples and finite numbers; theirs lets some objects become infinite or NaN."""
        X, y = super()._validate_input(X, y, incremental, reset)
        assert_all_finite(y, input_name="y")
        return X, y

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None,
            y_val: Any = None, comm: Any = None) -> MLPRegressor:
        """Train: as `MLPClassifier.fit`."""
        validation = None if X_val is y_val is None else (X_val, y_val)
        with all_or_none(ranks := ranks_of(comm)):
            self._fit(X, y, sample_weight, False, validation, ranks)
        return self

    @available_if(lambda estimator: estimator._check_solver())
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """Go through the samples once: as `MLPClassifier.partial_fit`."""
        if sample_weight is not None or not self._quick_step(X, y):
            super().partial_fit(X, y, sample_weight=sample_weight)
        return self

    @classmethod
    def from_sklearn(cls, fitted: theirs.MLPRegressor) -> MLPRegressor:
        """Return one of ours with the parameters and copies of the weights of one of theirs."""
        found: MLPRegressor = _taken_over(cls(**_known(fitted)), fitted)
        return found

    def to_sklearn(self) -> theirs.MLPRegressor:
        """Return one of theirs with the same weights; ValueError where theirs cannot have them."""
        return _given_back(self, theirs.MLPRegressor)


BOOKS = ("n_iter_", "t_", "n_outputs_", "n_layers_", "out_activation_", "loss_", "best_loss_",
         "loss_curve_", "validation_scores_", "best_validation_score_", "n_features_in_",
         "feature_names_in_", "_no_improvement_count")
SAVED_BOOKS = (*BOOKS, "validation_loss_curve_", "classes_")
# Those that each epoch goes on with.
OF_EPOCHS = ("n_iter_", "t_", "loss_", "best_loss_", "loss_curve_", "validation_loss_curve_",
             "validation_scores_", "best_validation_score_", "_no_improvement_count")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_vector(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1 and len(value) > 0


def _are_names(value: Any) -> bool:
    return _is_vector(value) and all(isinstance(name, str) for name in value)


# What every fitted estimator has, what one has that goes on, and what some have; the last two
# may be None where there was nothing to measure.
ALWAYS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("n_iter_", "t_", "n_outputs_", "n_layers_", "n_features_in_"), _is_count),
    "out_activation_": lambda value: value in ("identity", "softmax", "logistic", "exp"),
    "loss_": _is_number}
GOING_ON: dict[str, Callable[[Any], bool]] = {
    "_no_improvement_count": _is_count,
    "loss_curve_": _are_numbers,
    "validation_loss_curve_": _are_numbers,
    "best_loss_": lambda value: value is None or _is_number(value)}
SOMETIMES: dict[str, Callable[[Any], bool]] = {
    "validation_scores_": lambda value: value is None or _are_numbers(value),
    "best_validation_score_": lambda value: value is None or _is_number(value),
    "classes_": lambda value: _is_vector(value) and len(np.unique(value)) == len(value),
    "feature_names_in_": _are_names}


def _check_books(books: Mapping[str, Any], goes_on: bool) -> None:
    """ValueError unless a fitted estimator of a file has the books that its methods use."""
    needed = ALWAYS | GOING_ON if goes_on else ALWAYS
    for name, holds in (ALWAYS | GOING_ON | SOMETIMES).items():
        if name not in books and name in needed:
            raise ValueError(f"its {name} is missing")
        if name in books and not holds(books[name]):
            raise ValueError(f"its {name} cannot be {str(books[name])[:100]}")


def _known(fitted: Any) -> dict[str, Any]:
    """Return the parameters of one of theirs."""
    check_is_fitted(fitted)
    parameters: dict[str, Any] = fitted.get_params()
    return parameters


def _taken_over(to: Any, fitted: Any) -> Any:
    """Give an estimator copies of the books and the weights of a fitted one."""
    for name in (*BOOKS, "classes_", "_label_binarizer"):
        if hasattr(fitted, name):
            setattr(to, name, copy.deepcopy(getattr(fitted, name)))
    to.coefs_ = [coef.copy() for coef in fitted.coefs_]
    to.intercepts_ = [bias.copy() for bias in fitted.intercepts_]
    return to


def _given_back(own: Any, kind: Any) -> Any:
    """Return one of theirs with parameters, books and weights of one of ours."""
    check_is_fitted(own)
    parameters = own.get_params()
    for name in ("dropout", "layer_norm"):
        if parameters[name]:
            raise ValueError(f"scikit-learn's networks have no {name}")
    if parameters["activation"] not in THEIR_ACTIVATIONS:
        raise ValueError("scikit-learn's networks have no activation "
                         f"{parameters['activation']!r}")
    with own._use:
        own._synchronise()
        own._check_built(own._sizes())
        found = _taken_over(kind(**{name: parameters[name] for name in kind().get_params()}), own)
    found._best_coefs, found._best_intercepts = copy.deepcopy((found.coefs_, found.intercepts_))
    return found


def _in_words(value: Any) -> Any:
    """Return an attribute as files take it: arrays of text or objects as lists with their dtype."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "UO":
        return {"array": value.tolist(), "dtype": value.dtype.str}
    return value


def _from_words(value: Any) -> Any:
    """Return what `_in_words` was given."""
    if not isinstance(value, dict):
        return value.copy() if isinstance(value, np.ndarray) else value
    # Text gets the width of its longest entry: one that a file claims could take any memory.
    kinds: dict[str, Any] = {"U": str, "O": object}
    if not isinstance(value["array"], list):
        raise ValueError("an array is no list")
    return np.array(value["array"], kinds[np.dtype(value["dtype"]).kind])


def estimator_of(state: dict[str, Any]) -> MLPClassifier | MLPRegressor:
    """Return the estimator that a file holds; one of several errors where it is none."""
    about = state["estimator"]
    kind: Any = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}[about["class"]]
    found: MLPClassifier | MLPRegressor = kind(**about["parameters"])
    if about["random_state"] is not None:
        source = np.random.RandomState()
        set_random_state(source, about["random_state"])
        found.random_state = source
    if state["network"] is not None:
        found._take_file_state(about, state)
    return found
