"""ONNX's own test cases, when onnx is installed: its inputs and outputs, our kernels.

Each case is a model of one node, with inputs, expected outputs and tolerances, which the package
computes when the module of the operator is imported. `Operators` says what of ours an operator is.
"""

import importlib
import math
import pkgutil

import numpy as np
import pytest

import fastnet as fn
from fastnet import _ops

onnx = pytest.importorskip("onnx")
case_modules = importlib.import_module("onnx.backend.test.case.node")
assert_similar = importlib.import_module("onnx.backend.test").BackendTest.assert_similar_outputs


# ---- The operators ---------------------------------------------------------------------------

def along(axis, function, x):
    """`function` of a matrix whose rows run along an axis of `x`, back in the shape of `x`."""
    moved = np.moveaxis(x, axis, -1)
    y = function(moved.reshape(-1, moved.shape[-1]))
    return np.moveaxis(y.reshape(moved.shape), -1, axis)


def class_loss(loss, scores, labels):
    """A loss of scores (N, C, d1, ...) and labels (N, d1, ...): each label is a sample."""
    value = loss.forward(np.moveaxis(scores, 1, -1).reshape(-1, scores.shape[1]), labels.ravel())
    value = np.asarray(value, scores.dtype)
    return value.reshape(labels.shape) if value.ndim else value


def copies(tensors, n):
    """The tensors in n lists of one length, as copies that an update may change."""
    size = len(tensors) // n
    return [[t.copy() for t in tensors[i * size:(i + 1) * size]] for i in range(n)]


class Operators:
    """A method for each operator: from its attributes and inputs to one output or all of them."""

    @staticmethod
    def Gemm(attributes, A, B, C=None):
        A = np.ascontiguousarray(A.T if attributes["transA"] else A)
        B = np.ascontiguousarray(B.T if attributes["transB"] else B)
        A = _ops.scale_forward(A, attributes["alpha"])
        if C is None:
            return _ops.dense_forward(A, B)
        one_for_all_rows = C.ndim < 2 or len(C) == 1
        C = np.broadcast_to(_ops.scale_forward(C, attributes["beta"]), (len(A), B.shape[1]))
        if one_for_all_rows:
            return _ops.dense_forward(A, B, np.ascontiguousarray(C[0]))
        return _ops.add_forward(_ops.dense_forward(A, B), np.ascontiguousarray(C))

    @staticmethod
    def Relu(attributes, x):
        return fn.ReLU().forward(x)

    @staticmethod
    def LeakyRelu(attributes, x):
        return fn.LeakyReLU(attributes["alpha"]).forward(x)

    @staticmethod
    def Elu(attributes, x):
        return fn.ELU(attributes["alpha"]).forward(x)

    @staticmethod
    def Sigmoid(attributes, x):
        return fn.Sigmoid().forward(x)

    @staticmethod
    def Tanh(attributes, x):
        return fn.Tanh().forward(x)

    @staticmethod
    def Gelu(attributes, x):
        return fn.GELU(attributes["approximate"]).forward(x)

    @staticmethod
    def Softmax(attributes, x):
        return along(attributes["axis"], fn.Softmax().forward, x)

    @staticmethod
    def LogSoftmax(attributes, x):
        return along(attributes["axis"], fn.LogSoftmax().forward, x)

    @staticmethod
    def SoftmaxCrossEntropyLoss(attributes, scores, labels, weight=None):
        loss = fn.SoftmaxCrossEntropy(reduction=attributes["reduction"], weight=weight,
                                      ignore_index=attributes["ignore_index"])
        return class_loss(loss, scores, labels), along(1, fn.LogSoftmax().forward, scores)

    @staticmethod
    def NegativeLogLikelihoodLoss(attributes, scores, labels, weight=None):
        loss = fn.NegativeLogLikelihood(reduction=attributes["reduction"], weight=weight,
                                        ignore_index=attributes["ignore_index"])
        return class_loss(loss, scores, labels)

    @staticmethod
    def LayerNormalization(attributes, x, weight, bias=None):
        rows, columns = x.shape[:attributes["axis"]], x.shape[attributes["axis"]:]
        weight = np.broadcast_to(weight, columns).ravel()
        bias = None if bias is None else np.broadcast_to(bias, columns).ravel()
        y, stats = _ops.layer_norm_forward(
            x.reshape(math.prod(rows), math.prod(columns)), weight, bias, attributes["epsilon"])
        mean, factor = stats.T.astype(x.dtype)
        shape = (*rows, *[1] * len(columns))
        return y.reshape(x.shape), mean.reshape(shape), factor.reshape(shape)

    @staticmethod
    def Dropout(attributes, x, ratio=None, training=False):
        p = 0.5 if ratio is None else float(ratio)

        def dropout(x):
            if training:
                return _ops.dropout(x, p, attributes["seed"] or 0)
            return fn.Dropout(p).predict(x)

        return dropout(x), dropout(np.ones_like(x)) != 0

    @staticmethod
    def Momentum(attributes, rate, step, *tensors):
        weights, gradients, velocities = copies(tensors, 3)
        alpha, nesterov = attributes["alpha"], attributes["mode"] == "nesterov"
        _ops.sgd_update(
            gradients, weights, velocities, lr=float(rate), momentum=alpha,
            gain=attributes["beta"] if step > 0 else 1.0, look=alpha if nesterov else 1.0,
            direct=1.0 if nesterov else 0.0, decay=attributes["norm_coefficient"])
        return *weights, *velocities

    @staticmethod
    def Adam(attributes, rate, step, *tensors):
        weights, gradients, means, squares = copies(tensors, 4)
        beta1, beta2 = attributes["alpha"], attributes["beta"]
        correction = math.sqrt(1 - beta2**step) / (1 - beta1**step) if step > 0 else 1.0
        shrink = 1 - attributes["norm_coefficient_post"]
        _ops.adam_update(
            gradients, weights, means, squares, rate=float(rate) * correction * shrink,
            beta1=beta1, beta2=beta2, eps=attributes["epsilon"], root=1.0,
            decay=attributes["norm_coefficient"], shrink=shrink)
        return *weights, *means, *squares


OPERATORS = [name for name in vars(Operators) if name[0].isupper()]


# ---- The cases -------------------------------------------------------------------------------

def collected():
    """All cases of the operators; the other modules would take seconds, so they stay unread."""
    wanted = {name.lower() for name in OPERATORS}
    for _, name, _ in pkgutil.iter_modules(case_modules.__path__):
        short = name.replace("_", "")
        if short in wanted or f"{short}loss" in wanted:     # onnx has named one of them both ways
            importlib.import_module(f"{case_modules.__name__}.{name}")
    return case_modules._NodeTestCases


def node_of(case):
    (node,) = case.model.graph.node
    return node


def attributes_of(case):
    """The attributes of the case's node by name: its own, defaults, or None."""
    node = node_of(case)
    (version,) = [opset.version for opset in case.model.opset_import
                  if opset.domain == node.domain]
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    defaults = [a.default_value for a in schema.attributes.values() if a.default_value.type]
    attributes = dict.fromkeys(schema.attributes)
    for attribute in [*defaults, *node.attribute]:
        value = onnx.helper.get_attribute_value(attribute)
        attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return attributes


def arguments_of(case, inputs):
    """The inputs as the operator counts them: None for one that the node leaves out."""
    given = iter(inputs)
    return [next(given) if name else None for name in node_of(case).input]


def all_outputs(case, inputs):
    """What the operator makes of the inputs, also outputs that the node does not ask for."""
    operator = getattr(Operators, node_of(case).op_type)
    outputs = operator(attributes_of(case), *arguments_of(case, inputs))
    return outputs if isinstance(outputs, tuple) else (outputs,)


def repeats(case):
    """The name of the case that a model of several nodes repeats, or None."""
    name, expanded, _ = case.name.partition("_expanded")
    return name if expanded else None


def is_random(case):
    if node_of(case).op_type != "Dropout":
        return False
    return any(training and (ratio is None or ratio > 0) for _, ratio, training, *_ in
               [[*arguments_of(case, inputs), None, False] for inputs, _ in case.data_sets])


def is_wrong(case):
    """Whether it is one of two that older versions of onnx get wrong.

    They expect float64 of a product of float32, and an epsilon that the node does not have.
    """
    if case.name == "test_gemm_default_no_bias":
        return any(outputs[0].dtype != inputs[0].dtype for inputs, outputs in case.data_sets)
    return case.name == "test_adam_multiple" and all(
        attribute.name != "epsilon" for attribute in node_of(case).attribute)


def ids(cases):
    return [case.name for case in cases]


SINGLE = [case for case in collected()
          if not repeats(case) and node_of(case).op_type in OPERATORS]
EXPANDED = [case for case in collected() if repeats(case) in ids(SINGLE)]
RANDOM = [case for case in SINGLE if is_random(case)]
WRONG = [case for case in SINGLE if is_wrong(case)]
CASES = [case for case in SINGLE if not is_random(case) and not is_wrong(case)]


@pytest.fixture(scope="module", autouse=True)
def summary(request):
    request.config.pluginmanager.register(Summary(f"{request.node.nodeid}::{test_case.__name__}["))


class Summary:
    """Shows at the end of the run how many cases passed and what was left out."""

    def __init__(self, prefix):
        self.prefix = prefix

    def pytest_terminal_summary(self, terminalreporter):
        count = {outcome: sum(report.nodeid.startswith(self.prefix)
                              for report in terminalreporter.getreports(outcome))
                 for outcome in ("passed", "failed")}
        line = (f"onnx {onnx.__version__}: of {len(SINGLE)} cases of {len(OPERATORS)} operators, "
                f"{count['passed'] + count['failed']} ran and {count['passed']} passed")
        left_out = [f"{', '.join(ids(RANDOM))}, whose random numbers are NumPy's (compared where "
                    "both keep an entry)",
                    f"{len(EXPANDED)} models ..._expanded, which repeat a case in other operators"]
        if WRONG:
            left_out.append(f"{', '.join(ids(WRONG))}, which this onnx gets wrong")
        terminalreporter.write_line(line)
        terminalreporter.write_line(f"left out: {'; '.join(left_out)}")


# ---- The tests -------------------------------------------------------------------------------

@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_case(case):
    node = node_of(case)
    for inputs, expected in case.data_sets:
        outputs = all_outputs(case, inputs)
        outputs = [y for name, y in zip(node.output, outputs, strict=False) if name]
        assert_similar(expected, outputs, case.rtol, case.atol)


@pytest.mark.parametrize("case", RANDOM, ids=ids(RANDOM))
def test_dropout_with_another_mask(case):
    """The entries that ONNX and we keep are the same numbers, and the rest is 0."""
    for (x, ratio, _), expected in case.data_sets:
        y, kept = all_outputs(case, [x, ratio, True])
        theirs = expected[0] != 0
        assert (y.dtype, kept.dtype) == (x.dtype, np.bool_)
        np.testing.assert_array_equal(y != 0, kept)
        np.testing.assert_allclose(y[kept], x[kept] / (1 - ratio), case.rtol, case.atol)
        both = kept & theirs
        assert both.any() and not np.array_equal(kept, theirs)
        assert_similar([expected[0][both]], [y[both]], case.rtol, case.atol)


def test_every_operator_has_cases():
    assert {node_of(case).op_type for case in SINGLE} == set(OPERATORS)
    assert len(CASES) >= 100


def test_what_is_left_out_repeats_a_case():
    singles = {case.name: case for case in SINGLE}
    for case in EXPANDED:
        for some, others in zip(case.data_sets, singles[repeats(case)].data_sets, strict=True):
            for a, b in zip([*some[0], *some[1]], [*others[0], *others[1]], strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("spoil", [
    lambda y: np.where(np.arange(y.size).reshape(y.shape), y, 1.002 * y).astype(y.dtype),
    lambda y: y.astype(np.float64),
    lambda y: y[np.newaxis],
], ids=["value", "dtype", "shape"])
def test_a_wrong_output_is_noticed(spoil):
    (case,) = [case for case in CASES if case.name == "test_gemm_all_attributes"]
    ((inputs, (y,)),) = case.data_sets
    with pytest.raises(AssertionError):
        assert_similar([spoil(y)], all_outputs(case, inputs), case.rtol, case.atol)
