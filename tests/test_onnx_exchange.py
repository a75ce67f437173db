"""Networks as ONNX files: what runtimes make of ours, and what we make of those of others."""

import math
import os
import re
import sys

import numpy as np
import pytest

import fastnet as fn
from fastnet import _onnx
from fastnet._files import ModelFileError

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")
runtime = pytest.importorskip("onnxruntime")
hypothesis = pytest.importorskip("hypothesis")
from drawn_networks import tried  # noqa: E402

helper, types = onnx.helper, onnx.TensorProto
given, some = hypothesis.given, hypothesis.strategies

ACTIVATIONS = {**fn.activations.NAMES, "leaky_relu": lambda: fn.LeakyReLU(0.3),
               "elu": lambda: fn.ELU(0.7)}
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}     # of the largest entry


def close(y, expected, dtype, largest=1.0):
    """Entries on the way are of order 1 unless told, and so is what is rounded."""
    dtype, y, expected = np.dtype(dtype), np.asarray(y), np.asarray(expected)
    assert y.dtype == expected.dtype == dtype and y.shape == expected.shape
    largest = max(largest, abs(expected).max())
    assert abs(y - expected).max() <= TOLERANCE[str(dtype)] * largest


def largest_on_the_way(network, x):
    """The largest entry behind any layer: an output may be a small difference of such."""
    largest = [1.0]
    for layer in network.layers:
        x = layer.predict(x)
        largest.append(abs(x).max())
    return max(largest)


def run(path, x):
    """All outputs of a file, by onnxruntime."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = runtime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


class Erf(reference.op_run.OpRun):
    """In double: the evaluator's own gives float32 numbers."""

    op_domain = ""

    def _run(self, x):
        return (np.vectorize(math.erf, "d")(x).astype(x.dtype),)


def run_reference(path, x):
    """All outputs of a file, by ONNX's own evaluator in NumPy."""
    evaluator = reference.ReferenceEvaluator(str(path), new_ops=[Erf])
    return evaluator.run(None, {evaluator.input_names[0]: x})


def settled(layers, rng):
    """The layers, with biases and weights of layer norms that are not what they begin with."""
    for layer in layers:
        if isinstance(layer, fn.Residual):
            settled(layer.layers, rng)
        elif isinstance(layer, (fn.LayerNorm, fn.Dense)):
            for _, value, _ in layer.parameters():
                if value.ndim == 1:
                    value += rng.normal(0, 0.1, value.shape)
    return layers


@some.composite
def chains(draw, dtype, width, deep=1):
    """Layers that take so many features, and how many they give."""
    layers = []
    rng = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))
    for kind in draw(some.lists(some.sampled_from(
            ["dense", "dense", "activation", "norm", "drop", "residual", "scale", "nested"]),
            min_size=1, max_size=5)):
        if kind == "dense":
            wide = draw(some.integers(1, 40))
            layers.append(fn.Dense(
                width, wide, bias=draw(some.booleans()), dtype=dtype, rng=rng,
                activation=draw(some.sampled_from([None, *ACTIVATIONS]))))
            width = wide
        elif kind == "activation":
            layers.append(ACTIVATIONS[draw(some.sampled_from(sorted(ACTIVATIONS)))]())
        elif kind == "norm":        # rows of almost equal entries are magnified by 1 / sqrt(eps)
            layers.append(fn.LayerNorm(width, draw(some.sampled_from([0.1, 0.7])), dtype=dtype,
                                       affine=draw(some.booleans()), bias=draw(some.booleans())))
        elif kind == "drop":
            layers.append(draw(some.sampled_from([fn.Dropout(0.5), fn.Flatten(), fn.Identity()])))
        elif kind == "scale":
            layers.append(fn.Scale(draw(some.sampled_from([0.3, -1.7, 1.0]))))
        elif not deep:
            layers.append(fn.Identity())
        elif kind == "nested":
            inner, width = draw(chains(dtype, width, deep - 1))
            layers.append(fn.Sequential(inner))
        else:
            inner, wide = draw(chains(dtype, width, deep - 1))
            if wide != width:
                inner.append(fn.Dense(wide, width, dtype=dtype, rng=rng))
            layers.append(fn.Residual(inner))
    return settled(layers, rng), width


@some.composite
def networks(draw):
    dtype, n_in = draw(some.sampled_from(["float32", "float64"])), draw(some.integers(1, 40))
    layers, _ = draw(chains(dtype, n_in))
    first = fn.Dense(n_in, n_in, dtype=dtype, rng=draw(some.integers(0, 99)))
    return fn.Sequential([first, *layers])


def inputs_of(network, rng):
    for n in (1, 2, 33):
        yield rng.normal(size=(n, network.layers[0].in_features)).astype(network.dtype)


@tried(150, derandomize=True)
@given(networks(), some.integers(0, 2**32 - 1))
def test_files_of_any_network_run_and_come_back(tmp_path_factory, network, seed):
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    fn.to_onnx(network, path)
    onnx.checker.check_model(path, full_check=True)
    back = fn.from_onnx(path)
    has_erf = any(node.op_type == "Erf" for node in onnx.load(path).graph.node)
    evaluate = run_reference if has_erf and network.dtype == np.float64 else run
    for x in inputs_of(network, np.random.default_rng(seed)):
        y, largest = network.predict(x), largest_on_the_way(network, x)
        close(evaluate(path, x)[0], y, network.dtype, largest)
        close(back.predict(x), y, network.dtype, largest)


# ---- Ours, in runtimes -----------------------------------------------------------------------

def small(dtype="float32", *more):
    return fn.Sequential([fn.Dense(3, 4, activation="relu", dtype=dtype, rng=1),
                          fn.Dense(4, 5, dtype=dtype, rng=2), *more])


def test_what_a_file_says(tmp_path, dtype):
    fn.to_onnx(small(dtype), tmp_path / "m.onnx", argmax=True)
    model = onnx.load(tmp_path / "m.onnx")
    assert (model.ir_version, model.producer_name) == (8, "fastnet")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    real = helper.np_dtype_to_tensor_dtype(dtype)
    assert [*model.graph.input, *model.graph.output] == [
        helper.make_tensor_value_info("X", real, ["n", 3]),
        helper.make_tensor_value_info("Y", real, ["n", 5]),
        helper.make_tensor_value_info("label", types.INT64, ["n"])]
    assert [one.name for one in model.graph.initializer] == [
        "0.weight", "0.bias", "1.weight", "1.bias"]
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert weight.tobytes() == small(dtype).layers[0].weight.tobytes()


def test_probabilities_and_labels(tmp_path, dtype, rng):
    network, x = small(dtype), rng.normal(size=(9, 3)).astype(dtype)
    fn.to_onnx(network, tmp_path / "both.onnx", softmax=True, argmax=True)
    y, label = run(tmp_path / "both.onnx", x)
    close(y, network.predict_proba(x), dtype)
    assert label.dtype == np.int64 and label.tolist() == network.predict_labels(x).tolist()
    fn.to_onnx(network, tmp_path / "labels.onnx", argmax=True)
    y, label = run(tmp_path / "labels.onnx", x)
    close(y, network.predict(x), dtype)
    assert label.tolist() == network.predict_labels(x).tolist()
    back = fn.from_onnx(tmp_path / "both.onnx")
    close(back.predict(x), network.predict_proba(x), dtype)


def test_on_a_tie_the_label_is_the_first(tmp_path):
    network = fn.Sequential([fn.Dense(2, 3, weight_init="zeros")])
    fn.to_onnx(network, tmp_path / "m.onnx", argmax=True)
    assert run(tmp_path / "m.onnx", np.ones((2, 2), "f"))[1].tolist() == [0, 0]


@pytest.mark.parametrize("name", fn.activations.NAMES)
def test_activations_far_out(tmp_path, dtype, name):
    """One feature, passed on, so that nothing large stands beside small entries."""
    network = fn.Sequential([fn.Dense(1, 1, weight_init=lambda *_: np.ones((1, 1)), dtype=dtype,
                                      activation=name)])
    fn.to_onnx(network, tmp_path / "m.onnx")
    if name == "gelu" and dtype == np.float64:
        with pytest.raises(Exception, match="Erf"):         # or `to_onnx` can promise more
            run(tmp_path / "m.onnx", np.ones((1, 1), dtype))
        return
    for x in (0.0, 1e-6, 1e-3, 0.5, 3.0, 30.0, 1e4):
        rows = np.array([[x], [-x]], dtype)
        close(run(tmp_path / "m.onnx", rows)[0], network.predict(rows), dtype)
        close(fn.from_onnx(tmp_path / "m.onnx").predict(rows), network.predict(rows), dtype)


@pytest.mark.parametrize("affine, bias", [(True, True), (True, False), (False, False)])
def test_layer_norm_of_any_eps(tmp_path, dtype, rng, affine, bias):
    for eps in (1e-12, 1e-5, 1 / 3e3, 0.1, 10):
        norm = fn.LayerNorm(20, eps, affine=affine, bias=bias, dtype=dtype)
        network = fn.Sequential(settled([norm], rng))
        fn.to_onnx(network, tmp_path / "m.onnx")
        x = rng.normal(1, 1, (4, 20)).astype(dtype)
        close(run(tmp_path / "m.onnx", x)[0], network.predict(x), dtype)
        back = fn.from_onnx(tmp_path / "m.onnx")
        close(back.predict(x), network.predict(x), dtype)
        assert back.layers[0].eps == pytest.approx(eps, rel=1e-6 if dtype == "float32" else 1e-11)


def test_a_float32_network_comes_back_as_it_was(tmp_path):
    network = fn.Sequential([
        fn.Dense(3, 4, False), fn.LeakyReLU(0.01), fn.Dense(4, 4), fn.ELU(0.3),
        fn.LayerNorm(4, 1e-6), fn.Scale(0.7), fn.GELU(),
        fn.Residual([fn.Dense(4, 4), fn.GELU("tanh")]), fn.SiLU(), fn.LogSoftmax()])
    fn.to_onnx(network, tmp_path / "m.onnx")
    back = fn.from_onnx(tmp_path / "m.onnx")
    assert repr(back) == repr(network)
    parameters = zip(network.parameters(), back.parameters(), strict=True)
    assert all(a[1].tobytes() == b[1].tobytes() for a, b in parameters)


class Doubling(fn.Layer):
    def forward(self, x, out=None):
        return 2 * x

    def backward(self, dy, out=None):
        return 2 * dy


class Wider(fn.Dense):
    pass


@pytest.mark.parametrize("layers, message", [
    ([fn.Dense(3, 3), Doubling()], r"layer 1 of the network, Doubling\(\), cannot be written"),
    ([fn.Dense(3, 3, activation=Doubling())], r"layer 0.activation of the network"),
    ([fn.ReLU(), fn.Residual([fn.Dense(3, 3), fn.Sequential([Doubling()])])],
     r"layer 1\.1\.0 of the network"),
    ([Wider(3, 3)], "layer 0 of the network"),
    ([fn.ReLU(), fn.Scale(2)], "must have a Dense or a LayerNorm"),
    ([fn.Dense(3, 3), fn.Softmax(), fn.Dropout()], "softmax must be False"),
    ([fn.Dense(3, 3, activation="softmax"), fn.Scale(1)], "softmax must be False"),
])
def test_what_cannot_be_written(tmp_path, layers, message):
    path = tmp_path / "m.onnx"
    path.write_text("before")
    with pytest.raises(ValueError, match=message):
        fn.to_onnx(fn.Sequential(layers), path, softmax=True)
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]


def test_layers_that_do_not_fit_each_other_are_named():
    """When they are written, too, and not only when a network is made of them."""
    writer = _onnx._Writer(onnx, np.dtype("float32"))
    with pytest.raises(ValueError, match="layer 1 .*LayerNorm.* takes 3 features, but is given 2"):
        writer.chain([fn.Dense(4, 2), fn.LayerNorm(3, affine=False)], "X")


def test_a_path_may_be_bytes(tmp_path):
    path = os.fsencode(tmp_path / "m.onnx")
    fn.to_onnx(small(), path)
    assert fn.from_onnx(path).predict(np.ones((1, 3))).shape == (1, 5)


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_what_is_no_regular_file_is_refused_unread(tmp_path, kind):
    path = kind
    if kind == "pipe":
        os.mkfifo(path := tmp_path / kind)
    with pytest.raises(ModelFileError, match="is no file of its own"):
        fn.from_onnx(path)


def test_a_file_is_replaced_not_written_over(tmp_path):
    path, before = tmp_path / "m.onnx", tmp_path / "before"
    before.write_text("before")
    path.hardlink_to(before)
    fn.to_onnx(small(), path)
    assert before.read_text() == "before" and fn.from_onnx(path).layers


def test_arguments(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    with pytest.raises(TypeError, match="network must be a Sequential, got Dense"):
        fn.to_onnx(fn.Dense(2, 2), path)
    with pytest.raises(TypeError, match="argmax must be a bool"):
        fn.to_onnx(small(), path, argmax=1)
    with pytest.raises(FileNotFoundError):
        fn.to_onnx(small(), tmp_path / "nowhere" / "m.onnx")
    with pytest.raises(FileNotFoundError):
        fn.from_onnx(path)
    for call in (lambda: fn.to_onnx(small(), None), lambda: fn.from_onnx(None)):
        with pytest.raises(TypeError, match="path must be a str, bytes or a path, got None"):
            call()
    monkeypatch.setattr(_onnx, "LARGEST", 100)
    with pytest.raises(ValueError, match="network has 164 bytes of parameters.* 100 at most"):
        fn.to_onnx(small(), path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: fn.to_onnx(small("float32"), path), lambda: fn.from_onnx(path)):
        monkeypatch.setattr(_onnx, "LARGEST", 1000)
        with pytest.raises(ImportError, match=r'pip install -e "\.\[onnx\]"'):
            call()
    assert not path.exists()


# ---- Those of others -------------------------------------------------------------------------

class Skip:
    """A residual block for PyTorch, whose classes are not there where it is missing."""

    def __new__(cls, torch, *layers):
        class Skipping(torch.nn.Sequential):
            def forward(self, x):
                return x + super().forward(x)
        return Skipping(*layers)


def torch_network(torch):
    nn = torch.nn
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 8), nn.BatchNorm1d(8),
        nn.GELU("tanh"), nn.LayerNorm(8, elementwise_affine=False), nn.ELU(0.5), nn.LeakyReLU(),
        nn.Dropout(), Skip(torch, nn.LayerNorm(8), nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8)),
        nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3, bias=False), nn.LogSoftmax(1))
    with torch.no_grad():
        for norm in (network[4], network[12]):
            norm.running_mean += torch.randn(8)
            norm.running_var += torch.rand(8)
    return network.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo, opset", [(False, 13), (False, 17), (False, 20), (True, None)])
def test_pytorch(tmp_path, dynamo, opset):
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")
    network, path = torch_network(torch), tmp_path / "m.onnx"
    x = torch.randn(7, 3, 4)
    torch.onnx.export(network, (x[:2],), path, dynamo=dynamo, opset_version=opset, verbose=False,
                      **({"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else
                         {"dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"]}))
    back = fn.from_onnx(path)
    close(back.predict(x.numpy()), network(x).detach().numpy(), np.float32)
    assert [type(layer).__name__ for layer in back.layers] == [
        "Flatten", "Dense", "GELU", "Dense", "GELU", "LayerNorm", "ELU", "LeakyReLU", "Residual",
        "ReLU", "Dense", "LogSoftmax"]
    assert (back.layers[6].alpha, back.layers[7].alpha, back.layers[5].eps) == (0.5, 0.01, 1e-5)


def estimators():
    neural_network = pytest.importorskip("sklearn.neural_network")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    pipeline = pytest.importorskip("sklearn.pipeline")
    rng = np.random.default_rng(3)
    x, classes = rng.normal(size=(60, 4)).astype("f"), rng.integers(0, 3, 60)
    both, number = np.c_[classes > 0, classes == 1], rng.normal(size=60)

    def mlp(kind, **more):
        return getattr(neural_network, kind)(
            hidden_layer_sizes=(5,), max_iter=2, random_state=0, **more)

    return {
        "three classes": (mlp("MLPClassifier", activation="tanh"), x, classes),
        "two classes": (mlp("MLPClassifier"), x, np.where(classes > 0, "yes", "no")),
        "two labels": (mlp("MLPClassifier", activation="logistic"), x, both),
        "a number": (mlp("MLPRegressor", activation="identity"), x, number),
        "standardized": (pipeline.make_pipeline(
            preprocessing.StandardScaler(), mlp("MLPClassifier")), 9 * x + 3, classes),
        "scaled": (pipeline.make_pipeline(
            preprocessing.MinMaxScaler(), mlp("MLPRegressor")), x, number),
        "in double": (pipeline.make_pipeline(
            preprocessing.StandardScaler(), mlp("MLPRegressor")), x.astype("d"), number),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", ["three classes", "two classes", "two labels", "a number",
                                   "standardized", "scaled", "in double"])
def test_scikit_learn(tmp_path, which):
    skl2onnx = pytest.importorskip("skl2onnx")
    estimator, x, y = estimators()[which]
    estimator.fit(x, y)
    (tmp_path / "m.onnx").write_bytes(skl2onnx.to_onnx(estimator, x[:1]).SerializeToString())
    if hasattr(estimator, "predict_proba"):
        expected = estimator.predict_proba(x)
    else:
        expected = estimator.predict(x)[:, None]
    if which == "two classes":
        expected = expected[:, 1:]
    close(fn.from_onnx(tmp_path / "m.onnx").predict(x), expected.astype(x.dtype), x.dtype)


# ---- Graphs by hand --------------------------------------------------------------------------

W, B, V = (np.random.default_rng(5).normal(size=shape).astype("f") for shape in [(3, 4), 4, 3])
CONSTANTS = {
    "W": W, "WT": W.T.copy(), "S": W[:, :3].copy(), "B": B, "B2": B[None], "V": V, "A": abs(B),
    "half": np.float32(0.5), "one": np.float32(1), "two": np.float32(2), "zero": np.float32(0),
    "root": np.float32(2**0.5), "slope": np.full(3, 0.2, "f"), "rows": np.array([-1, 3]),
    "same": np.array([0, -1]), "double": V.astype("d"), "four": np.array([-1, 4]),
    "yes": np.array(True), "minus": np.float32(-1), "cube": np.zeros((2, 3, 4), "f"),
    "none": np.array([0, 3]), "wide": np.ones((5, 1), "f")}


def model_of(text, shape=("n", 3), outputs=("y",), constants=CONSTANTS, opset=17):
    """A model of lines such as "y = Gemm(x, W) alpha=0.5"."""
    nodes = []
    for line in text.split(";"):
        output, op, inputs, attributes = re.fullmatch(
            r"\s*(\w+) = (\w+)\((.*?)\) ?(.*)", line).groups()
        nodes.append(helper.make_node(op, inputs.replace(",", " ").split(), [output],
                                      name="n" + output, **eval(f"dict({attributes})")))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", types.FLOAT, shape)],
        [helper.make_tensor_value_info(name, types.FLOAT, ("n", "k")) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()
         if name in used])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


READ = {
    "keras": "a = Reshape(x, rows); b = MatMul(a, W); c = Add(b, B); d = Relu(c); e = Identity(d);"
             "y = Softmax(e) axis=-1",
    "gemm": "y = Gemm(x, WT, B) alpha=0.5, beta=2.0, transB=1",
    "bias before": "a = MatMul(x, W); y = Add(B2, a)",
    "affine before": "a = Sub(x, V); b = Div(a, V); c = Mul(b, half); y = Gemm(c, W, B)",
    "affine behind": "a = MatMul(x, W); b = Mul(a, B); c = Sub(B, b); y = Div(c, B)",
    "one number": "a = Gemm(x, W, one); y = Sub(one, a)",
    "scale": "a = Gemm(x, W, B); b = Tanh(a); c = Div(b, half); y = Mul(c, two)",
    "batch norm": "a = Gemm(x, W, B); y = BatchNormalization(a, B, B, B, A) epsilon=0.1",
    "batch norm first": "a = BatchNormalization(x, V, V, V, slope); y = Gemm(a, W)",
    "folded": "t = Transpose(WT) perm=[1, 0]; u = Mul(t, half); a = MatMul(x, u);"
              "f = Add(B, B); y = Add(a, f)",
    "constant": "c = Constant() value_float=0.3; a = MatMul(x, W); y = Mul(a, c)",
    "inference": "d = Dropout(x); e = Cast(d) to=1; f = Flatten(e); g = Reshape(f, same);"
                 "y = Gemm(g, W, B)",
    "residual": "a = Gemm(x, S, V); b = Relu(a); c = Add(b, x); d = Add(c, c); y = Gemm(d, W)",
    "nested": "a = Gemm(x, S, V); b = Tanh(a); c = Gemm(b, S); d = Add(a, c); e = Sigmoid(d);"
              "y = Add(x, e)",
    "silu": "a = Gemm(x, W); s = Sigmoid(a); y = Mul(s, a)",
    "silu by exp": "n = Neg(x); e = Exp(n); s = Add(one, e); y = Div(x, s)",
    "gelu": "h = Mul(half, x); d = Div(x, root); e = Erf(d); o = Add(one, e); y = Mul(h, o)",
    "elu": "m = Min(x, zero); t = Exp(m); u = Sub(t, one); v = Mul(half, u); p = Relu(x);"
           "y = Add(p, v)",
    "leaky relu": "h = Mul(x, half); y = Max(x, h)",
    "prelu": "y = PRelu(x, slope)",
    "layer norm": "m = ReduceMean(x) axes=[-1]; c = Sub(x, m); p = Pow(c, two);"
                  "v = ReduceMean(p) axes=[1]; w = Add(v, half); r = Sqrt(w); d = Div(c, r);"
                  "s = Mul(d, V); y = Add(s, slope)",
    "layer norm op": "y = LayerNormalization(x, V, slope) epsilon=0.01",
    "log softmax": "a = Gemm(x, W); y = LogSoftmax(a) axis=1",
    "nothing": "y = Identity(x)",
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_graphs_are_read_as_the_runtime_reads_them(tmp_path, rng, text):
    onnx.save(model_of(text), tmp_path / "m.onnx")
    x = rng.normal(size=(6, 3)).astype("f")
    y = run(tmp_path / "m.onnx", x)[0]
    close(fn.from_onnx(tmp_path / "m.onnx").predict(x), y, np.float32)


def test_axes_as_an_input_are_read(tmp_path, rng):
    """As ReduceMean has them from opset 18 on."""
    text = READ["layer norm"].replace("(x) axes=[-1]", "(x, last)").replace(
        "(p) axes=[1]", "(p, last)")
    onnx.save(model_of(text, constants={**CONSTANTS, "last": np.array([-1])}, opset=18),
              tmp_path / "m.onnx")
    x = rng.normal(size=(6, 3)).astype("f")
    close(fn.from_onnx(tmp_path / "m.onnx").predict(x), run(tmp_path / "m.onnx", x)[0], "float32")


def test_inputs_of_more_dimensions_are_flattened(tmp_path, rng):
    wide = {**CONSTANTS, "W": rng.normal(size=(6, 4)).astype("f"), "six": np.array([-1, 6])}
    x = rng.normal(size=(5, 2, 3)).astype("f")
    for text in ("a = Mul(x, half); b = Add(a, one); c = Flatten(b); y = Gemm(c, W)",
                 "c = Reshape(x, six); y = Gemm(c, W)"):
        onnx.save(model_of(text, ("n", 2, 3), constants=wide), tmp_path / "m.onnx")
        network = fn.from_onnx(tmp_path / "m.onnx")
        assert type(network.layers[0]) is fn.Flatten
        close(network.predict(x), run(tmp_path / "m.onnx", x)[0], np.float32)
    onnx.save(model_of("a = Relu(x); y = Gemm(a, W)", ("n", 2, 3)), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"node 'na' \(Relu\).*more than 2 dimensions"):
        fn.from_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("text, message", [
    ("a = MatMul(x, W); y = Softplus(a)", r"node 'ny' \(Softplus\) cannot be read: fastnet has no"),
    ("y = Gemm(x, W) transA=1", "transA must be 0"),
    ("y = Gemm(x, x)", "'x' must be its first input"),

    ("y = Gemm(S, S, x)", "'x' must be its first input"),
    ("y = MatMul(x, V)", r"'V' must have 2 dimensions, got shape \(3,\)"),
    ("y = MatMul(x, cube)", "'cube' must have 2 dimensions"),
    ("a = MatMul(x, W); y = MatMul(a, S)", r"'ny' \(MatMul\).*takes 3 features, but is given 4"),
    ("y = Gemm(x, W, V)", "4 outputs have 3 biases"),
    ("a = MatMul(x, W); y = Add(a, V)", "it takes 3 features, but is given 4"),
    ("a = Relu(x); y = Add(a, V)", "no dense layer before or behind"),
    ("y = Mul(x, x)", "'x' must be a constant"),
    ("y = Div(one, x)", "divides by what comes from the input"),
    ("y = Add(x, double)", "'double' must be float32, got float64"),
    ("y = Add(x, wide)", "must have 1 dimensions"),
    ("y = Softmax(x) axis=0", "axis must be 1 or -1, got 0"),
    ("y = PRelu(x, V)", "its slope must be one"),
    ("y = Reshape(x, four)", "it takes 4 features, but is given 3"),
    ("s = Shape(x); y = Reshape(x, s)", r"node 'ns' \(Shape\)"),
    ("y = Reshape(x, none)  allowzero=1", r"rows of features, got \[0, 3\]"),
    ("a = Cast(x) to=11; y = Cast(a) to=1", "must leave float32 as it is, not make DOUBLE of it"),
    ("y = Dropout(x, half, yes)", "training_mode must be false"),
    ("a = Gemm(x, W); s = Sigmoid(a); t = Tanh(a); y = Mul(s, t)",
     r"node 'ny' \(Mul\).*several ways lead to it from 'a'"),
    ("a = Gemm(x, W); s = Softmax(a); y = Mul(s, a)", r"node 'ns' \(Softmax\).*several ways"),
    ("m = ReduceMean(x) axes=[0]; c = Sub(x, m); p = Mul(c, c); v = ReduceMean(p) axes=[-1];"
     "w = Add(v, half); r = Sqrt(w); y = Div(c, r)", r"node 'nc' \(Sub\).*several ways"),
    ("a = Exp(V); y = Add(x, a)", r"node 'na' \(Exp\).*of constants, only simple"),
    ("a = Add(V, wide); y = Add(x, a)", "constants must not grow"),
    ("y = Identity(V)", "output 'y' must depend on the input 'x'"),
])
def test_what_cannot_be_read(tmp_path, text, message):
    onnx.save(model_of(text), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=message) as caught:
        fn.from_onnx(tmp_path / "m.onnx")
    assert not isinstance(caught.value, ModelFileError)


def test_inputs_and_outputs_that_cannot_be_read(tmp_path):
    path = tmp_path / "m.onnx"

    def refused(model, message):
        onnx.save(model, path)
        with pytest.raises(ValueError, match=message):
            fn.from_onnx(path)

    refused(model_of("y = Relu(x); z = Tanh(x)", outputs=("y", "z")),
            "must have one output of float32, besides labels; got y, z")
    refused(model_of("y = Relu(x)", shape=("n",)), "'x' must have at least 2 dimensions")
    refused(model_of("y = Relu(x)", opset=6), "must have opset 7 or newer, got 6")
    model = model_of("y = Relu(x)")
    model.graph.input[0].type.tensor_type.elem_type = types.FLOAT16
    refused(model, "input 'x' must be float32 or float64, got FLOAT16")
    model = model_of("y = Relu(x)")
    model.graph.input.append(helper.make_tensor_value_info("x2", types.FLOAT, ["n", 3]))
    refused(model, "must have one input, got x, x2")
    model = model_of("y = ArgMax(x)")
    model.graph.output[0].type.tensor_type.elem_type = types.INT64
    refused(model, "one output of float32, besides labels; got none")
    model = model_of("y = Relu(x)")
    model.graph.node[0].domain = "com.somebody"
    model.opset_import.append(helper.make_opsetid("com.somebody", 1))
    refused(model, r"\(com.somebody.Relu\) cannot be read: fastnet has no such layer")


# ---- Damaged and hostile files ---------------------------------------------------------------

def test_damaged_files_are_refused(tmp_path, rng):
    path = tmp_path / "m.onnx"
    fn.to_onnx(small(), path)
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(ModelFileError, match="is no ONNX model, or a damaged one"):
            fn.from_onnx(path)
    for _ in range(1000):               # refused as a file, or as a network, or it is another
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=3):
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            fn.from_onnx(path)
        except ValueError as error:
            assert not isinstance(error, UnicodeError)


def test_weights_beside_a_file_are_read_from_its_folder_alone(tmp_path, rng):
    (tmp_path / "in").mkdir()
    path, network = tmp_path / "in" / "m.onnx", small()
    fn.to_onnx(network, path)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    x = rng.normal(size=(2, 3)).astype("f")
    assert fn.from_onnx(path).predict(x).tobytes() == network.predict(x).tobytes()
    beside = onnx.load(path, load_external_data=False)
    data = tmp_path / "in" / "m.data"

    def refused(message, **changes):
        changed = onnx.ModelProto.FromString(beside.SerializeToString())
        for entry in changed.graph.initializer[0].external_data:
            entry.value = str(changes.get(entry.key, entry.value))
        path.write_bytes(changed.SerializeToString())
        with pytest.raises(ModelFileError, match=message):
            fn.from_onnx(path)

    (tmp_path / "outside").write_bytes(data.read_bytes())
    (tmp_path / "in" / "link").symlink_to(data)
    for place in ("../outside", str(tmp_path / "outside"), "link", "nowhere", "..", ""):
        refused("no file in the same folder", location=place)
    refused("takes '0.weight' from bytes", length=10**6)
    refused("takes '0.weight' from bytes", offset=10**6)
    refused("takes '0.weight' from bytes", offset=-5)
    refused("does not say where", offset="here")
    refused("damaged at '0.weight'|no ONNX model", length=8)
    for tensor in beside.graph.initializer:             # all the same bytes, over and over
        for entry in tensor.external_data:
            entry.value = {"offset": "0", "length": str(data.stat().st_size)}.get(
                entry.key, entry.value)
    refused("takes '0.bias' from bytes")


def test_files_cannot_ask_for_more_memory_than_they_have(tmp_path):
    """A chain of layers that share their weights, and of constants that do."""
    path = tmp_path / "m.onnx"
    square = {**CONSTANTS, "W": np.eye(100, dtype="f"), "V": np.ones(10000, "f")}
    lines = [f"v{i + 1} = MatMul(v{i}, W)" for i in range(300)]
    lines[0], lines[-1] = "v1 = MatMul(x, W)", "y = MatMul(v299, W)"
    onnx.save(model_of(";".join(lines), ("n", 100), constants=square), path)
    with pytest.raises(ModelFileError, match="uses its constants more than 64 times"):
        fn.from_onnx(path)
    lines = ["v0 = Mul(V, V)", *(f"v{i + 1} = Mul(v{i}, V)" for i in range(300)),
             "y = Add(x, v300)"]
    onnx.save(model_of(";".join(lines), ("n", 10000), constants=square), path)
    with pytest.raises(ModelFileError, match="uses its constants more than 64 times"):
        fn.from_onnx(path)


def test_deep_and_long_graphs_are_read_or_refused_in_time(tmp_path):
    path = tmp_path / "m.onnx"

    def nested(deep):
        lines = ["v0 = Tanh(x)", *(f"v{i + 1} = Add(v{i}, w{i})" for i in range(deep))]
        inner = [f"w{i} = Tanh(v{i})" for i in range(deep)]
        return ";".join([lines[0], *(one for pair in zip(inner, lines[1:], strict=True)
                                     for one in pair), f"y = Relu(v{deep})"])

    onnx.save(model_of(nested(2000)), path)             # one after the other
    assert len(fn.from_onnx(path).layers) == 2002
    deep = ["a0 = Tanh(x)", *(f"a{i + 1} = Tanh(a{i})" for i in range(3000)),
            "b0 = Add(a3000, a2999)", *(f"b{i + 1} = Add(b{i}, a{2998 - i})" for i in range(2998))]
    onnx.save(model_of(";".join([*deep, "y = Relu(b2998)"])), path)     # in each other
    with pytest.raises(ValueError, match="more than 50 residual connections in each other"):
        fn.from_onnx(path)
    several = ["s = Tanh(x)", "v0 = Mul(s, x)", *(f"v{i + 1} = Neg(v{i})" for i in range(20000))]
    onnx.save(model_of(";".join([*several, "y = Relu(v20000)"])), path)
    with pytest.raises(ValueError, match="no function that fastnet has"):
        fn.from_onnx(path)
