"""`to_c`: the file compiles without a warning, and gives what `predict` gives."""

import contextlib
import ctypes
import re
import shutil
import subprocess
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest

import fastnet as fn
from fastnet import _c

hypothesis = pytest.importorskip("hypothesis")
given, some = hypothesis.given, hypothesis.strategies

GCC, CLANG, GXX = map(shutil.which, ["gcc", "clang", "g++"])
pytestmark = pytest.mark.skipif(GCC is None, reason="needs gcc")
STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-Wconversion", "-Wdouble-promotion",
          "-Wshadow", "-Wundef", "-Wmissing-declarations", "-Wcast-qual"]
C99 = [GCC, "-std=c99", *STRICT]
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}     # of the largest entry


def run(*command):
    """Run a program, and return what it prints; its complaints are the test's failure."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(networks, folder):
    """Write networks as files with functions net0, net1 ..., and return the paths."""
    paths = [folder / f"net{i}.c" for i in range(len(networks))]
    for path, network in zip(paths, networks, strict=True):
        fn.to_c(network, path, name=path.stem)
    return paths


libraries = count()     # a path that was loaded once gives the old library again


def compiled(networks, folder, flags=("-O1",)):
    """Return a function of rows for each network, all from one library."""
    library = folder / f"networks{next(libraries)}.so"
    run(*C99, *flags, "-shared", "-fPIC", *write(networks, folder), "-lm", "-o", library)
    loaded = ctypes.CDLL(library)

    def rows_of(name, network):
        function = loaded[name]
        function.restype = None
        n_out = network.predict(np.zeros((1, network._in_features()))).shape[1]

        def predict(x):
            x = np.ascontiguousarray(x, network.dtype)
            y = np.full((len(x), n_out + 2), 7, network.dtype)      # with a fence on both sides
            for row, out in zip(x, y, strict=True):
                function(row.ctypes.data_as(ctypes.c_void_p),
                         out[1:].ctypes.data_as(ctypes.c_void_p))
            assert (y[:, [0, -1]] == 7).all()
            return y[:, 1:-1]

        return predict

    return [rows_of(f"net{i}", network) for i, network in enumerate(networks)]


def make_network(dtype="float32"):
    """Every kind of layer, with widths that go up and down."""
    rng = np.random.default_rng(5)
    return fn.Sequential([
        fn.Flatten(), fn.Residual([fn.LeakyReLU(0.2)]),
        fn.Dense(6, 20, activation="gelu", dtype=dtype, rng=rng), fn.Dropout(0.5),
        fn.Residual([
            fn.LayerNorm(20, dtype=dtype), fn.Dense(20, 31, bias=False, dtype=dtype, rng=rng),
            fn.Residual([fn.SiLU(), fn.Residual([fn.Identity()]), fn.Tanh()]), fn.ELU(0.7),
            fn.Sequential([fn.ReLU(), fn.Dense(31, 20, dtype=dtype, rng=rng)])]),
        fn.LayerNorm(20, affine=False, dtype=dtype), fn.GELU("tanh"), fn.Sigmoid(), fn.Scale(-3),
        fn.Dense(20, 4, bias_init="glorot_uniform", dtype=dtype, rng=rng), fn.LogSoftmax(),
        fn.Softmax()])


# ---- Results -------------------------------------------------------------------------------------

ACTIVATIONS = {
    **fn.activations.NAMES, "steep": lambda: fn.LeakyReLU(-1.5), "low": lambda: fn.ELU(0.3)}
WIDTHS = some.one_of(some.integers(1, 20), some.sampled_from([31, 33, 64, 150]))


@some.composite
def chains(draw, width, dtype, rng, deep=2):
    """Layers that take so many features, and how many they give."""
    layers = []
    kinds = ["dense", "dense", "activation", "norm", "scale", "nothing"]
    kinds += ["residual", "inner"] if deep else []
    for kind in draw(some.lists(some.sampled_from(kinds), min_size=1, max_size=5)):
        if kind == "dense":
            wide = draw(WIDTHS)
            activation = draw(some.sampled_from([None, *ACTIVATIONS.values()]))
            layers.append(fn.Dense(
                width, wide, draw(some.booleans()), activation=activation and activation(),
                bias_init="glorot_uniform", dtype=dtype, rng=rng))
            width = wide
        elif kind == "activation":
            layers.append(ACTIVATIONS[draw(some.sampled_from(sorted(ACTIVATIONS)))]())
        elif kind == "norm":
            # With a smaller eps a row of almost equal numbers becomes one of rounding errors.
            layers.append(fn.LayerNorm(width, draw(some.sampled_from([0.1, 0.5])), dtype=dtype,
                                       affine=draw(some.booleans()), bias=draw(some.booleans())))
            for _, value, _ in layers[-1].parameters():
                value[...] = rng.uniform(0.5, 1.5, width)
        elif kind == "scale":
            layers.append(fn.Scale(draw(some.floats(-2, 2))))
        elif kind == "nothing":
            layers.append(draw(some.sampled_from([fn.Flatten, fn.Dropout, fn.Identity]))())
        else:
            inner, wide = draw(chains(width, dtype, rng, deep - 1))
            if kind == "residual" and wide != width:
                inner.append(fn.Dense(wide, width, dtype=dtype, rng=rng))
                wide = width
            layers.append({"residual": fn.Residual, "inner": fn.Sequential}[kind](inner))
            width = wide
    return layers, width


@some.composite
def networks(draw):
    dtype, width = draw(some.sampled_from(["float32", "float64"])), draw(WIDTHS)
    rng = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))
    layers, wide = draw(chains(width, dtype, rng))
    last = fn.Dense(wide, draw(WIDTHS), dtype=dtype, rng=rng)       # so that there is a width
    return fn.Sequential([*layers, last] if draw(some.booleans()) else [last, *draw(
        chains(last.out_features, dtype, rng))[0]])


def assert_agree(found, expected, largest=None):
    assert found.dtype == expected.dtype
    largest = np.abs(expected).max() if largest is None else largest
    # What is smaller than the smallest normal number counts as 0 in fastnet, but not in C.
    near = TOLERANCE[expected.dtype.name] * largest + 2 * np.finfo(expected.dtype).tiny
    np.testing.assert_allclose(found, expected, rtol=0, atol=near)


@hypothesis.settings(deadline=None, max_examples=10, database=None, derandomize=True,
                     phases=[hypothesis.Phase.generate])    # to shrink means to compile for minutes
@given(some.lists(networks(), min_size=6, max_size=6), some.integers(0, 2**32 - 1))
def test_drawn_networks_give_what_predict_gives(tmp_path_factory, drawn, seed):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("drawn")
    for network, predict in zip(drawn, compiled(drawn, folder), strict=True):
        x = y = rng.normal(size=(4, network._in_features())).astype(network.dtype)
        # Errors are relative to the numbers on the way, of which the last ones may be small.
        largest = [np.abs(x).max()]
        for layer in network.layers:
            y = layer.predict(y)
            largest.append(np.abs(y).max())
        assert_agree(predict(x), network.predict(x), max(largest))
    shutil.rmtree(folder)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_layer_together(dtype, tmp_path):
    network = make_network(dtype)
    predict, = compiled([network], tmp_path, ["-O3"])
    x = np.random.default_rng(1).normal(size=(50, 6)).astype(dtype)
    assert_agree(predict(x), network.predict(x))
    images = x.reshape(50, 2, 3)
    assert_agree(predict(x), network.predict(images))


def single(activation, dtype, width=1):
    """A network that is an activation, behind a product that changes nothing."""
    network = fn.Sequential([fn.Dense(width, width, dtype=dtype), activation])
    network.layers[0].weight = np.eye(width)
    return network


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_activations_of_large_scores_infinity_and_nan(dtype, tmp_path):
    kinds = ACTIVATIONS.keys() - {"softmax", "log_softmax"}     # these are of rows
    functions = [single(ACTIVATIONS[kind](), dtype) for kind in sorted(kinds)]
    beyond = np.finfo(dtype).max
    x = np.concatenate([
        np.linspace(-40, 40, 801), [-1000, 1000, -999.9, -1000.1, -1e30, 1e30, -beyond, beyond],
        [np.inf, -np.inf, np.nan]]).astype(dtype)[:, None]
    # A unit in the last place of the result, or of 1; near the tails, a few of exp's argument.
    precise = {"float32": 5e-7, "float64": 1e-15}[dtype]
    for network, predict in zip(functions, compiled(functions, tmp_path), strict=True):
        np.testing.assert_allclose(predict(x), network.predict(x), rtol=precise, atol=precise,
                                   err_msg=str(network))
        assert np.isnan(predict([[np.nan]]))
        near_0 = np.array([[-1e-4], [-1e-6], [1e-6], [1e-4]])
        np.testing.assert_allclose(predict(near_0), network.predict(near_0), rtol=precise,
                                   err_msg=str(network))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_softmax_of_large_scores_and_nan(dtype, tmp_path):
    functions = [single(fn.Softmax(), dtype, 4), single(fn.LogSoftmax(), dtype, 4)]
    x = np.array([[1000, -1000, 0, 999], [-1e4, -1e4, -1e4 - 1, -2e4], [3, 3, 3, 3],
                  [1e30, 1e30, -1e30, 0]])
    for network, predict in zip(functions, compiled(functions, tmp_path), strict=True):
        for row in x:
            assert_agree(predict([row]), network.predict([row]))
        for place in range(4):
            row = np.zeros((1, 4))
            row[0, place] = np.nan
            assert np.isnan(predict(row)).all()
            assert np.isnan(network.predict(row)).all()


def test_layer_norm_of_rows_far_from_0_and_of_equal_numbers(tmp_path):
    far = fn.Sequential([fn.LayerNorm(50)])
    tiny = fn.Sequential([fn.LayerNorm(3, 1e-60)])      # which is 0 as a float
    predict_far, predict_tiny = compiled([far, tiny], tmp_path)
    x = 1000 + np.random.default_rng(2).normal(size=(20, 50)).astype(np.float32)
    assert_agree(predict_far(x), far.predict(x))
    equal = np.full((1, 3), 0.7, np.float32)
    np.testing.assert_array_equal(predict_tiny(equal), 0)
    np.testing.assert_array_equal(tiny.predict(equal), 0)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_weights_keep_their_bits(dtype, tmp_path):
    """Also those without a point or with an exponent in their decimal form."""
    limits = np.finfo(dtype)
    numbers = np.concatenate([
        [1, 100, 1e5, 1e16, 1e-5, 1e-9, limits.max, limits.tiny, limits.smallest_subnormal],
        np.random.default_rng(3).lognormal(0, 20, 1000)]).astype(dtype)
    network = fn.Sequential([fn.Dense(1, 2 * len(numbers), bias=False, dtype=dtype)])
    network.layers[0].weight = np.concatenate([numbers, -numbers])[None]
    predict, = compiled([network], tmp_path)
    np.testing.assert_array_equal(predict([[1]]), network.layers[0].weight)


def test_a_residual_at_the_beginning_and_at_the_end(tmp_path):
    """The input and the output stand where one looks for scratch space."""
    rng = np.random.default_rng(4)
    drawn = [
        fn.Sequential([fn.Residual([fn.Dense(3, 5, rng=rng), fn.Dense(5, 3, rng=rng)])]),
        fn.Sequential([fn.Residual([fn.Residual([fn.Dropout()]), fn.Dense(3, 3, rng=rng)])]),
        fn.Sequential([fn.Dense(3, 4, rng=rng), fn.Residual([fn.Residual([fn.Identity()])])]),
        fn.Sequential([fn.Residual([fn.ReLU()]), fn.LayerNorm(3), fn.Flatten()])]
    x = rng.normal(size=(5, 3)).astype(np.float32)
    for network, predict in zip(drawn, compiled(drawn, tmp_path), strict=True):
        before = x.copy()
        assert_agree(predict(x), network.predict(x))
        assert (x == before).all()


def test_threads_share_the_function(tmp_path):
    network = make_network()
    predict, = compiled([network], tmp_path)
    inputs = np.random.default_rng(6).normal(size=(4, 300, 6)).astype(np.float32)
    expected = [predict(x) for x in inputs]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            for found, right in zip(threads.map(predict, inputs), expected, strict=True):
                np.testing.assert_array_equal(found, right)


# ---- The file ------------------------------------------------------------------------------------

MAIN = r"""
#include <stdio.h>
%s

int main(void)
{
    float x[small_inputs], y[small_outputs];
    double z[large_inputs], w[large_outputs];

    while (scanf("%%f", &x[0]) == 1) {
        for (int i = 1; i < small_inputs; i++)
            if (scanf("%%f", &x[i]) != 1)
                return 1;
        for (int i = 0; i < large_inputs; i++)
            if (scanf("%%lf", &z[i]) != 1)
                return 1;
        small(x, y);
        large(z, w);
        for (int i = 0; i < small_outputs; i++)
            printf("%%.9g ", (double)y[i]);
        for (int i = 0; i < large_outputs; i++)
            printf("%%.17g ", w[i]);
    }
    return 0;
}
"""
LINKED = """
enum { small_inputs = 3, small_outputs = 2, large_inputs = 6, large_outputs = 4 };
void small(const float *x, float *y);
void large(const double *x, double *y);
"""


@pytest.mark.parametrize("how", ["linked", "included"])
def test_two_networks_in_one_program_that_minds_its_memory(how, tmp_path):
    sanitize = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    empty = tmp_path / "empty.c"
    empty.write_text("int main(void) { return 0; }")
    if subprocess.run([GCC, *sanitize, empty, "-o", tmp_path / "empty"],
                      capture_output=True).returncode != 0:
        sanitize = []
    small = fn.Sequential([fn.Dense(3, 2, activation="tanh", rng=1), fn.Residual([fn.Scale(2)])])
    large = make_network("float64")
    fn.to_c(small, tmp_path / "small.c", name="small")
    fn.to_c(large, tmp_path / "large.c", name="large")
    names = ["small.c", "large.c"]
    (tmp_path / "main.c").write_text(MAIN % (
        LINKED if how == "linked" else "\n".join(f'#include "{name}"' for name in names)))
    run(*C99, *sanitize, tmp_path / "main.c",
        *([tmp_path / name for name in names] if how == "linked" else []),
        "-lm", "-o", tmp_path / "main")
    x = np.random.default_rng(7).normal(size=(3, 9))
    (tmp_path / "input").write_text(" ".join(map(repr, x.ravel().tolist())))
    with open(tmp_path / "input") as numbers:
        done = subprocess.run([tmp_path / "main"], stdin=numbers, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.array(done.stdout.split(), float).reshape(3, 6)
    assert_agree(found[:, :2].astype(np.float32), small.predict(x[:, :3].astype(np.float32)))
    assert_agree(found[:, 2:], large.predict(x[:, 3:]))


@pytest.mark.parametrize("compiler", [
    [GCC, "-std=c11", "-O3"], [GCC, "-std=c2x", "-Os"], [GCC, "-std=gnu99"],
    [CLANG, "-std=c99", "-O2"], [CLANG, "-std=c11", "-O2"],
    [GXX, "-xc++", "-std=c++11"], [GXX, "-xc++", "-std=c++20"]], ids=str)
def test_other_compilers_and_standards_have_no_warning_either(compiler, tmp_path):
    if compiler[0] is None:
        pytest.skip("not installed")
    for path in write([make_network("float32"), make_network("float64")], tmp_path):
        run(*compiler, *STRICT, "-c", path, "-o", tmp_path / "network.o")


def test_make_network_needs_every_helper(tmp_path):
    """So that the tests with it compile each of them."""
    text = text_of(make_network(), tmp_path)
    assert set(re.findall(r"^static void predict_(\w+)\(", text, re.M)) == _c.HELPERS.keys()


def text_of(network, folder, **options):
    fn.to_c(network, folder / "text.c", **options)
    return (folder / "text.c").read_text()


def test_the_file_holds_what_is_used_and_says_what_it_is(tmp_path):
    text = text_of(fn.Sequential([fn.Dense(4, 3, bias=False, activation="relu"), fn.Dropout()]),
                   tmp_path, name="my_net")
    assert re.findall(r"^static void (\w+)\(", text, re.M) == ["my_net_dense", "my_net_relu"]
    assert "#include" not in text and "-lm" not in text and "double" not in text
    assert "enum { my_net_inputs = 4, my_net_outputs = 3 };" in text
    assert re.findall(r"^static const \w+ (\w+)", text, re.M) == ["my_net_0_weight"]
    assert f"fastnet {fn.__version__}" in text and "Dropout(0.5)" in text
    assert "12 parameters, 48 bytes, float32" in text
    assert "NAME" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "layer by layer" not in text_of(fn.Sequential([fn.LayerNorm(3)]), tmp_path)
    text = text_of(make_network("float64"), tmp_path)
    assert text.count("#include <math.h>") == 1 and "float " not in text
    assert "predict_4_4_1_weight[620]" in text          # named by its place


def test_the_stack_that_is_told_is_that_of_the_scratch_arrays(tmp_path):
    text = text_of(make_network(), tmp_path)
    arrays = re.search(r"^    float (h.*);$", text, re.M)[1]
    sizes = [int(size) for size in re.findall(r"\[(\d+)\]", arrays)]
    assert max(sizes) == 31 and len(sizes) == 3
    assert f"allocates nothing; {4 * sum(sizes)} bytes" in text


def test_many_weights_take_little_memory(tmp_path):
    network = fn.Sequential([fn.Dense(1000, 200, rng=0), fn.ReLU(), fn.Dense(200, 1, rng=0)])
    tracemalloc.start()
    fn.to_c(network, tmp_path / "large.c")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "large.c").stat().st_size > 2_000_000
    assert peak < 500_000               # 200,200 of it: which of the weights are finite


def test_the_same_network_gives_the_same_file_and_stays_as_it_is(tmp_path):
    network = make_network()
    network.compile(loss="cross_entropy")
    before = [value.tobytes() for _, value, _ in network.parameters()]
    first = text_of(network, tmp_path)
    assert text_of(network, tmp_path) == first
    assert [value.tobytes() for _, value, _ in network.parameters()] == before
    network.train_step(np.ones((1, 6)), [1])
    assert text_of(network, tmp_path) != first


# ---- Errors --------------------------------------------------------------------------------------


class Own(fn.Layer):
    """Somebody's own layer."""

    def forward(self, x, out=None):
        return x

    backward = forward

    def __repr__(self):
        return "Own()"


class OwnDense(fn.Dense):
    """What it computes is not known."""


def with_weight(value):
    network = fn.Sequential([fn.Dense(2, 2), fn.Sequential([fn.ReLU(), fn.Dense(2, 3)])])
    network.layers[1].layers[1].weight[1, 2] = value
    return network


WRONG = [
    ([fn.Dense(2, 3), Own()], r"layer 1 must be built in .* got Own\(\)"),
    ([fn.Dense(2, 3), fn.Residual([fn.ReLU(), fn.Sequential([Own()])])],
     r"layer 1\.1\.0 must be built in .* got Own\(\)"),
    ([fn.Dense(2, 3, activation=Own())],
     r"layer 0 must be built in .* with its activation, got Dense\(2, 3, activation=Own\(\)\)"),
    ([fn.ReLU(), OwnDense(2, 3)], "layer 1 must be built in"),
    ([fn.ReLU(), fn.Residual([fn.Flatten()])], "network must have a Dense or a LayerNorm"),
    ([fn.Dense(2, 3), fn.Scale(1e300)], r"constant of scale must be a finite float32, got 1e\+300"),
    ([fn.Dense(2, 3, activation=fn.ELU(-1e39))], r"constant of elu .* float32, got -1e\+39"),
    ([fn.LayerNorm(3, 1e39)], r"constant of layer_norm .* float32, got 1e\+39"),
]


@pytest.mark.parametrize("layers, message", WRONG)
def test_networks_without_a_form_in_c(layers, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fn.to_c(fn.Sequential(layers), tmp_path / "network.c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_must_be_finite(value, tmp_path):
    with pytest.raises(ValueError, match=f"parameter 1.1.weight must be finite, got {value}"):
        fn.to_c(with_weight(value), tmp_path / "network.c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [
    "", "2fast", "my net", "my-net", "netz\u00e4hler", "net\n", "double", "restrict", "nullptr",
    "_Bool", "main", "exp", "tanhf", "fabsf", "erff", "NAN", "INFINITY", "isnan", "signbit",
    "HUGE_VALF", "memcpy", "M_PI", "__func__", "_Float32", "asm"])
def test_names_must_be_free_identifiers(name, tmp_path):
    with pytest.raises(ValueError, match="name must be an identifier") as raised:
        fn.to_c(with_weight(0), tmp_path / "network.c", name=name)
    assert repr(name) in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("standard", ["c99", "gnu17", "gnu2x"])
def test_no_name_of_the_headers_is_free(standard, tmp_path):
    """Whatever this compiler finds in them; math.h is the only one that a file includes."""
    headers = ["math.h"] + ["stddef.h", "stdint.h", "string.h"] * (standard == "c99")
    (tmp_path / "all.c").write_text("".join(f"#include <{one}>\n" for one in headers))
    declared, macros = (run(GCC, f"-std={standard}", "-E", flag, tmp_path / "all.c")
                        for flag in ("-P", "-dM"))
    names = {*re.findall(r"\b[A-Za-z]\w*", re.sub(r'"[^"]*"|__\w+__|\b0x\w+', "", declared)),
             *re.findall(r"#define ([A-Za-z]\w*)", macros)}
    assert {"fabsf", "NAN", "isnan"} < names and len(names) > 200
    accepted = []
    for name in sorted(names):
        with contextlib.suppress(ValueError):
            fn.to_c(with_weight(0), tmp_path / "network.c", name=name)
            accepted.append(name)
    assert accepted == []


@pytest.mark.parametrize("name", [
    "iris", "exponent", "logfit", "nanny", "M_net", "SIZE", "memory", "_predict", "f", "l", "int_",
    "INT_NET", "x", "y", "n", "h0"])
def test_names_that_are_free(name, tmp_path):
    fn.to_c(make_network(), tmp_path / "network.c", name=name)
    run(*C99, "-c", tmp_path / "network.c", "-o", tmp_path / "network.o")


def test_other_kinds_of_arguments(tmp_path):
    network, path = with_weight(0), tmp_path / "network.c"
    for wrong, message in [
            ((network.layers[0], path), r"network must be a Sequential, got Dense\(2, 2\)"),
            ((network.frozen(), path), r"network must be a Sequential, got Predictor"),
            ((network, 3), "path must be a str, bytes or a path, got 3")]:
        with pytest.raises(TypeError, match=message):
            fn.to_c(*wrong)
    with pytest.raises(TypeError, match="name must be a str, got None"):
        fn.to_c(network, path, name=None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_as_a_whole_or_stays(tmp_path, monkeypatch):
    path = tmp_path / "network.c"
    fn.to_c(with_weight(0), str(path))
    before = path.read_text()

    def breaks(*arguments):
        yield "static const"
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(_c._Program, "_array", breaks)
        with pytest.raises(OSError, match="disk is full"):
            fn.to_c(with_weight(1), path)
    assert path.read_text() == before
    fn.to_c(with_weight(1), path)
    assert path.read_text() != before
    for wrong, error in [(tmp_path / "no" / "network.c", FileNotFoundError),
                         (tmp_path, IsADirectoryError)]:
        with pytest.raises(error):
            fn.to_c(with_weight(0), wrong)
    assert list(tmp_path.iterdir()) == [path]
