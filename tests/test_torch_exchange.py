"""Networks to and from PyTorch, where it is installed: outputs, parameters, errors."""

import copy
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest

import fastnet as fn

torch = pytest.importorskip("torch")
hypothesis = pytest.importorskip("hypothesis")
from drawn_networks import tried  # noqa: E402

nn = torch.nn
given, some = hypothesis.given, hypothesis.strategies

# Of the largest output: a few roundings.
CLOSE = {"float32": 1e-6, "float64": 1e-12}
DTYPES = list(CLOSE)
ACTIVATIONS = {
    "relu": fn.ReLU, "leaky_relu": lambda: fn.LeakyReLU(0.3), "elu": lambda: fn.ELU(1.7),
    "gelu": fn.GELU, "gelu_tanh": lambda: fn.GELU("tanh"), "sigmoid": fn.Sigmoid, "tanh": fn.Tanh,
    "silu": fn.SiLU, "softmax": fn.Softmax, "log_softmax": fn.LogSoftmax, "identity": fn.Identity}
MODULES = {
    "relu": lambda: nn.ReLU(inplace=True), "leaky_relu": lambda: nn.LeakyReLU(0.3),
    "elu": lambda: nn.ELU(1.7, inplace=True), "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"), "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
    "silu": nn.SiLU, "softmax": lambda: nn.Softmax(dim=-1),
    "log_softmax": lambda: nn.LogSoftmax(dim=1), "identity": nn.Identity}
WIDTHS = some.one_of(some.integers(1, 20), some.sampled_from([31, 32, 33, 64, 200]))


def of_torch(module, x):
    """What a module predicts."""
    with torch.no_grad():
        return copy.deepcopy(module).eval()(torch.tensor(x)).numpy()


def assert_close(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() <= CLOSE[found.dtype.name] * scale


def fill(network, rng):
    """Give a network random parameters, biases and the weights of norms too."""
    for _, value, _ in network.parameters():
        value[...] = rng.normal(size=value.shape) / np.sqrt(len(value))
    return network


def small(dtype="float32", rng=0):
    """A network with all kinds of parameters."""
    return fill(fn.Sequential([
        fn.Dense(5, 8, activation="tanh", dtype=dtype), fn.LayerNorm(8, dtype=dtype),
        fn.Dense(8, 3, bias=False, dtype=dtype)]), np.random.default_rng(rng))


def assert_same_parameters(network, module):
    """Names, dtype and bits."""
    state = module.state_dict()
    ours = network.state_dict()
    assert list(ours) == list(state)
    for name, value in ours.items():
        assert value.flags.c_contiguous and value.dtype == state[name].numpy().dtype
        np.testing.assert_array_equal(value, state[name].numpy(), strict=True)


# ---- Networks of anything ----------------------------------------------------------------------

@some.composite
def networks(draw):
    """A network of all layers that both libraries have, nested here and there, and an input."""
    dtype, n_in = draw(some.sampled_from(DTYPES)), draw(WIDTHS)
    rng = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))
    width, layers = n_in, []
    for kind in draw(some.lists(some.sampled_from(
            ["dense", "dense", "activation", "norm", "dropout", "flatten"]), max_size=6)):
        if kind == "dense":
            wide = draw(WIDTHS)
            layers.append(fn.Dense(width, wide, draw(some.booleans()), dtype=dtype, rng=rng,
                                   activation=draw(some.sampled_from([None, *ACTIVATIONS]))))
            width = wide
        elif kind == "activation":
            layers.append(ACTIVATIONS[draw(some.sampled_from(sorted(ACTIVATIONS)))]())
        elif kind == "norm" and width >= 8:      # of a few, the deviation can be almost 0
            layers.append(fn.LayerNorm(width, draw(some.sampled_from([1e-5, 0.1])),
                                       affine=draw(some.booleans()), bias=draw(some.booleans()),
                                       dtype=dtype))
        elif kind == "dropout":
            layers.append(fn.Dropout(draw(some.floats(0, 0.9)), rng=rng))
        elif kind == "flatten":
            layers.append(fn.Flatten())
        if layers and draw(some.integers(0, 4)) == 0:
            layers[-1].trainable = False
        if len(layers) > 1 and draw(some.integers(0, 4)) == 0:
            layers = [fn.Sequential(layers)]
    layers.append(fn.Dense(width, draw(some.integers(1, 20)), dtype=dtype, rng=rng))
    network = fill(fn.Sequential(layers), rng)
    return network, rng.normal(size=(draw(some.integers(1, 50)), n_in)).astype(dtype)


def trainable(layers):
    """Of each layer with parameters, in the order of the row."""
    for layer in layers:
        if isinstance(layer, fn.Sequential):
            yield from trainable(layer.layers)
        elif any(True for _ in layer.parameters()):
            yield layer.trainable


@tried(150, derandomize=True)
@given(networks())
def test_a_network_predicts_the_same_in_torch_and_comes_back_with_its_bits(drawn):
    network, x = drawn
    module = network.to_torch()
    assert type(module) is nn.Sequential and module.training
    assert_same_parameters(network, module)
    back = fn.from_torch(module)
    assert_same_parameters(back, module)
    assert back.predict(x).tobytes() == network.predict(x).tobytes()
    assert list(trainable(back.layers)) == list(trainable(network.layers))
    # Some of these networks make large errors of small ones (a norm of almost equal entries, say),
    # which float64 can bear; the parameters are those above.
    module, x = module.double(), x.astype("float64")
    assert_close(fn.from_torch(module).predict(x), of_torch(module, x))


# ---- Each module -------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODULES)
def test_activations_in_both_directions(name, dtype, rng):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(30, 20), MODULES[name](), nn.Linear(20, 10))
    module.to(getattr(torch, dtype))
    x = rng.normal(size=(50, 30)).astype(dtype)
    assert_close(fn.from_torch(module).predict(x), of_torch(module, x))
    network = fn.Sequential([fn.Dense(30, 20, activation=name, dtype=dtype, rng=rng),
                             fn.Dense(20, 10, dtype=dtype, rng=rng), ACTIVATIONS[name]()])
    assert_close(of_torch(network.to_torch(), x), network.predict(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [
    lambda: nn.Linear(30, 7),
    lambda: nn.Linear(30, 1, bias=False),
    lambda: nn.Sequential(nn.Linear(30, 7), nn.Dropout(0.5, inplace=True), nn.Linear(7, 3)),
    lambda: nn.Sequential(nn.LayerNorm(30, 0.1), nn.Linear(30, 7), nn.LayerNorm(7, bias=False)),
    lambda: nn.Sequential(nn.LayerNorm(30, elementwise_affine=False), nn.Linear(30, 7)),
    lambda: nn.Sequential(nn.Sequential(nn.Linear(30, 7), nn.ReLU()),
                          nn.Sequential(), nn.Sequential(nn.Sequential(nn.Linear(7, 3)))),
    lambda: nn.Sequential(OrderedDict(hidden=nn.Linear(30, 7), softmax=nn.Softmax(1))),
], ids=range(7))
def test_modules_of_torch(make, dtype, rng):
    torch.manual_seed(0)
    module = make().to(getattr(torch, dtype))
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = rng.normal(size=(50, 30)).astype(dtype)
    network = fn.from_torch(module)
    assert network.dtype == dtype
    assert_close(network.predict(x), of_torch(module, x))


def test_flatten_of_images(rng):
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x = rng.normal(size=(4, 3, 2, 2)).astype("float32")
    network = fn.from_torch(module)
    assert_close(network.predict(x), of_torch(module, x))
    assert_close(of_torch(network.to_torch(), x), network.predict(x))


def test_options_go_both_ways():
    rows = [fn.Dropout(0.3), fn.LeakyReLU(0.2), fn.ELU(1.5), fn.GELU("tanh"), fn.GELU(),
            fn.LayerNorm(4, 0.1), fn.LayerNorm(4, affine=False), fn.LayerNorm(4, bias=False)]
    module = fn.Sequential(rows).to_torch()
    assert [module[0].p, module[1].negative_slope, module[2].alpha] == [0.3, 0.2, 1.5]
    assert [module[3].approximate, module[4].approximate, module[5].eps] == ["tanh", "none", 0.1]
    assert [norm.elementwise_affine for norm in module[5:]] == [True, False, True]
    assert repr(fn.from_torch(module)) == repr(fn.Sequential(rows))


def test_a_module_used_by_fastnet_and_by_torch_is_not_shared(rng):
    x = rng.normal(size=(6, 5)).astype("float32")
    network = small()
    module, before = network.to_torch(), network.predict(x)
    for parameter in module.parameters():
        parameter.data.zero_()
    assert network.predict(x).tobytes() == before.tobytes()
    taken = fn.from_torch(module)
    for parameter in module.parameters():
        parameter.data.fill_(1)
    assert not taken.predict(x).any()


def test_conversion_leaves_the_random_numbers_of_torch_alone():
    before = torch.get_rng_state()
    fn.from_torch(small().to_torch())
    assert torch.equal(before, torch.get_rng_state())


def test_a_class_of_ones_own_is_kept():
    class Mine(fn.Sequential):
        pass

    assert type(Mine.from_torch(nn.Linear(2, 2))) is Mine
    assert type(Mine([fn.ReLU()]).to_torch()[0]) is nn.ReLU


# ---- Trained on both sides ---------------------------------------------------------------------

@pytest.mark.parametrize("dtype", DTYPES)
def test_training_goes_on_on_the_other_side(dtype, rng):
    """A step here, then the same three in both libraries, then one of PyTorch's alone."""
    x, y = rng.normal(size=(40, 5)).astype(dtype), rng.integers(3, size=40)
    network = small(dtype)
    network.compile(fn.SGD(0.1, momentum=0.5))
    network.train_step(x, y)
    network.compile(fn.SGD(0.1, momentum=0.5))          # its velocity begins anew, as PyTorch's
    module = network.to_torch()
    sgd = torch.optim.SGD(module.parameters(), 0.1, momentum=0.5)

    def step():
        sgd.zero_grad()
        nn.functional.cross_entropy(module(torch.tensor(x)), torch.tensor(y)).backward()
        sgd.step()

    for _ in range(3):
        network.train_step(x, y)
        step()
    assert_close(network.predict(x), of_torch(module, x))
    step()
    assert np.abs(network.predict(x) - of_torch(module, x)).max() > 1e-3
    network.load_state_dict(module.state_dict())
    assert_same_parameters(network, module)
    assert_close(network.predict(x), of_torch(module, x))
    assert_close(fn.from_torch(module).predict(x), of_torch(module, x))


def test_torch_saves_and_loads_it(tmp_path, rng):
    x = rng.normal(size=(6, 5)).astype("float32")
    network = small()
    torch.save(network.to_torch(), tmp_path / "module.pt")
    loaded = torch.load(tmp_path / "module.pt", weights_only=False)
    assert_close(of_torch(loaded, x), network.predict(x))
    torch.save(network.to_torch().state_dict(), tmp_path / "state.pt")
    other = small(rng=1)
    assert np.abs(other.predict(x) - network.predict(x)).max() > 0.1
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert other.predict(x).tobytes() == network.predict(x).tobytes()


def test_frozen_layers_are_frozen_there_too():
    network = small()
    network.layers[1].trainable = False
    module = network.to_torch()
    assert [parameter.requires_grad for parameter in module.parameters()] == [
        True, True, False, False, True]
    assert list(trainable(fn.from_torch(module).layers)) == [True, False, True]
    assert not fn.from_torch(module.requires_grad_(False)).trainable


# ---- States ------------------------------------------------------------------------------------

def test_names_and_layout_of_a_state():
    network = small()
    state = network.state_dict()
    assert list(state) == ["0.weight", "0.bias", "2.weight", "2.bias", "3.weight"]
    first = network.layers[0]
    np.testing.assert_array_equal(state["0.weight"], first.weight.T)
    assert state["0.weight"].shape == (8, 5) and state["0.weight"].flags.c_contiguous
    state["0.bias"][...] = 7
    assert not (first.bias == 7).any()


class Own:
    """A layer of one's own, without parameters."""

    def forward(self, x, out=None):
        return 2 * x

    def backward(self, dy):
        return 2 * dy

    def parameters(self):
        return ()


@pytest.mark.parametrize("make, names", [
    (lambda: [fn.Dense(4, 3), fn.Residual([fn.Dense(3, 5, activation="relu"), fn.Sequential(
        [fn.Tanh(), fn.Dense(5, 3, bias=False)])])],
     ["0.weight", "0.bias", "1.0.weight", "1.0.bias", "1.1.1.weight"]),
    (lambda: [fn.LayerNorm(4), fn.Sequential([fn.ReLU(), fn.LayerNorm(4, bias=False)])],
     ["0.weight", "0.bias", "2.weight"]),
    (lambda: [fn.Dense(4, 3, activation=Own()), Own(), fn.Dense(3, 1)],
     ["0.weight", "0.bias", "3.weight", "3.bias"]),
    (lambda: [fn.Scale(2), fn.ReLU()], []),
], ids=["residual", "without Dense", "layer by layer", "none"])
def test_states_of_networks_that_torch_does_not_have(make, names, rng):
    one, other = (fill(fn.Sequential(make()), rng) for _ in range(2))
    state = one.state_dict()
    assert list(state) == names
    x = rng.normal(size=(6, 4)).astype("float32")
    other.load_state_dict(state)
    assert other.predict(x).tobytes() == one.predict(x).tobytes()
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


def test_a_state_of_other_types_and_from_a_file(tmp_path):
    wide, narrow = small("float64"), small(rng=1)
    narrow.load_state_dict(wide.state_dict())
    for name, value in narrow.state_dict().items():
        np.testing.assert_array_equal(value, wide.state_dict()[name].astype("float32"))
        assert value.dtype == "float32"
    wide.load_state_dict(narrow.to_torch().half().state_dict())
    np.testing.assert_array_equal(wide.state_dict()["2.bias"],
                                  narrow.state_dict()["2.bias"].astype("float16"))
    np.savez(tmp_path / "state.npz", **narrow.state_dict())
    with np.load(tmp_path / "state.npz") as state:
        wide.load_state_dict(state)
    np.testing.assert_array_equal(wide.state_dict()["0.weight"], narrow.state_dict()["0.weight"])


def test_a_state_may_be_views_of_the_network():
    network = fill(fn.Sequential([fn.Dense(4, 4), fn.Dense(4, 4)]), np.random.default_rng(0))
    before = network.state_dict()
    first, second = network.layers
    network.load_state_dict({"0.weight": second.weight.T, "0.bias": second.bias,
                             "1.weight": first.weight.T, "1.bias": first.bias})
    after = network.state_dict()
    for name in ("weight", "bias"):
        np.testing.assert_array_equal(after[f"0.{name}"], before[f"1.{name}"])
        np.testing.assert_array_equal(after[f"1.{name}"], before[f"0.{name}"])


def test_tensors_are_asked_for_an_array_wherever_they_are():
    class Elsewhere:
        """What is used of a tensor on another device, which needs `cpu` and, first, `detach`."""

        def __init__(self, array, done=()):
            self.array, self.done = array, done

        def detach(self):
            return Elsewhere(self.array, (*self.done, "detach"))

        def cpu(self):
            return Elsewhere(self.array, (*self.done, "cpu"))

        def numpy(self):
            assert self.done == ("detach", "cpu")
            return self.array

    network, other = small(), small(rng=1)
    network.load_state_dict({n: Elsewhere(v) for n, v in other.state_dict().items()})
    np.testing.assert_array_equal(network.state_dict()["3.weight"],
                                  other.state_dict()["3.weight"])


# What replaces an entry of a state, and what is said about it; None: the entry is missing.
BAD_ENTRIES = [
    ("3.weight", None, ValueError, r"missing: \['3.weight'\], unexpected: \[\]"),
    ("fc.bias", np.zeros(3), ValueError, r"missing: \[\], unexpected: \['fc.bias'\]"),
    ("3.weight", np.zeros((8, 3)), ValueError, r"state\['3.weight'\] must have shape \(3, 8\)"),
    ("3.weight", np.zeros(24), ValueError, r"\['3.weight'\] must have .* got \(24,\)"),
    ("2.bias", 0.0, ValueError, r"state\['2.bias'\] must have shape \(8,\), got \(\)"),
    ("2.bias", np.zeros(8, int), ValueError, r"\['2.bias'\] must hold floating.* got int64"),
    ("2.bias", torch.zeros(8, dtype=torch.bool), ValueError, r"\['2.bias'\] .* got bool"),
    ("2.bias", np.zeros(8, complex), ValueError, r"\['2.bias'\] .* got dtype complex128"),
    ("2.bias", torch.zeros(8, dtype=torch.bfloat16), ValueError, r"\['2.bias'\] .* BFloat16"),
    ("2.bias", torch.zeros(8, device="meta"), ValueError, r"\['2.bias'\] .* meta tensor"),
    ("2.bias", "text", ValueError, r"state\['2.bias'\] must hold real numbers"),
    ("2.bias", np.ma.zeros(8), TypeError, r"state\['2.bias'\] .* masked"),
    ("3.weight", np.full((3, 8), 1e39), ValueError,
     r"state\['3.weight'\]\[0, 0\] is 1e\+39, too large for float32"),
]


@pytest.mark.parametrize("key, value, error, message", BAD_ENTRIES,
                         ids=[message for *_, message in BAD_ENTRIES])
def test_a_wrong_entry_is_named_and_nothing_changes(key, value, error, message):
    network = small()
    before, state = network.state_dict(), small(rng=1).state_dict()
    if value is None:
        del state[key]
    else:
        state[key] = value
    with pytest.raises(error, match=message):
        network.load_state_dict(state)
    for name, now in network.state_dict().items():
        np.testing.assert_array_equal(now, before[name])


@pytest.mark.parametrize("state", [None, [("0.weight", 1)], nn.Linear(2, 2)], ids=type)
def test_a_state_is_a_dict(state):
    with pytest.raises(TypeError, match="state must be a dict of names and arrays, got"):
        small().load_state_dict(state)


# ---- Batch normalization -----------------------------------------------------------------------

def with_statistics(module):
    """The module in evaluation mode, with random parameters and statistics."""
    torch.manual_seed(3)
    for one in module.modules():
        if isinstance(one, nn.BatchNorm1d):
            one.running_mean.normal_()
            one.running_var.uniform_(0.1, 4)
            if one.affine:
                nn.init.normal_(one.weight)
            if one.bias is not None:
                nn.init.normal_(one.bias)
    return module.eval()


BATCH_NORMS = {
    "behind": lambda: [nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4)],
    "behind, no bias": lambda: [nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9, eps=0.1)],
    "ahead": lambda: [nn.BatchNorm1d(6), nn.Linear(6, 9)],
    "ahead, no bias": lambda: [nn.BatchNorm1d(6), nn.Linear(6, 9, bias=False)],
    "behind an activation": lambda: [nn.Linear(6, 9), nn.Tanh(), nn.BatchNorm1d(9),
                                     nn.Linear(9, 4)],
    "not affine": lambda: [nn.BatchNorm1d(6, affine=False), nn.Linear(6, 9),
                           nn.BatchNorm1d(9, affine=False)],
    "two on both sides": lambda: [nn.BatchNorm1d(6), nn.BatchNorm1d(6), nn.Linear(6, 9),
                                  nn.BatchNorm1d(9), nn.BatchNorm1d(9), nn.Linear(9, 4)],
    "in sequences": lambda: [nn.Sequential(nn.Linear(6, 9)), nn.Sequential(nn.BatchNorm1d(9))],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", BATCH_NORMS)
def test_batch_normalization_becomes_part_of_a_linear(case, dtype, rng):
    module = with_statistics(nn.Sequential(*BATCH_NORMS[case]())).to(getattr(torch, dtype))
    x = rng.normal(size=(50, 6)).astype(dtype)
    network = fn.from_torch(module)
    assert_close(network.predict(x), of_torch(module, x))
    linears = [one for one in module.modules() if isinstance(one, nn.Linear)]
    dense = [layer for layer in network.layers if isinstance(layer, fn.Dense)]
    assert [layer.out_features for layer in dense] == [one.out_features for one in linears]
    assert not any("Norm" in repr(layer) for layer in network.layers)


def test_a_normalization_without_bias():
    """A `bias` argument of BatchNorm1d is new; here is one that has a weight alone."""
    module = with_statistics(nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9))).double()
    module[1].bias = None
    x = np.random.default_rng(0).normal(size=(50, 6))
    assert_close(fn.from_torch(module).predict(x), of_torch(module, x))


def test_frozen_normalization_goes_with_a_frozen_linear():
    module = with_statistics(nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9)))
    assert fn.from_torch(module).trainable
    assert not fn.from_torch(module.requires_grad_(False)).trainable
    module[1].requires_grad_(True)
    bare = with_statistics(nn.Sequential(module[0], nn.BatchNorm1d(9, affine=False)))
    assert not fn.from_torch(bare).trainable
    with pytest.raises(ValueError, match="module 1 is BatchNorm1d: it and the Linear that it is "
                                         "folded into must both require gradients, or neither"):
        fn.from_torch(module)


# ---- What cannot be taken over -----------------------------------------------------------------

def norm(change=lambda norm: None, features=4):
    """A BatchNorm1d in evaluation mode that was changed."""
    made = nn.BatchNorm1d(features).eval()
    change(made)
    return made


class Doubling(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


class Linear(nn.Linear):
    """Of the name of PyTorch's."""


def partly_frozen(module):
    module.bias.requires_grad_(False)
    return module


def wide_variance(module):
    module.running_var = module.running_var.double()


def hooked(module):
    module.register_forward_hook(lambda module, x, y: 2 * y)
    return module


def without(module, name, value=None):
    """A module that has lost an attribute, or has another one in its place."""
    delattr(module, name)
    if value is not None:
        module.register_parameter(name, *value)
    return module


def patched(module):
    module.forward = lambda x: 2 * x
    return module


def inside_itself():
    module = nn.Sequential(nn.Linear(4, 4))
    module.append(module)
    return module


def filled(module, value):
    with torch.no_grad():
        module.weight.fill_(value)
    return module


nowhere = "there is no Linear directly before or behind it that it could be folded into"
BAD_MODULES = [
    (lambda: [nn.Linear(4, 4), nn.ReLU(), nn.Conv1d(1, 1, 1)],
     "module 2 is Conv1d, which fastnet has no layer for"),
    (lambda: [nn.Sequential(nn.ReLU(), nn.Sequential(nn.PReLU()))], "module 0.1.0 is PReLU, which"),
    (lambda: nn.Bilinear(2, 2, 2), "the module is Bilinear, which fastnet has no layer for"),
    (lambda: [Doubling(nn.Linear(4, 4))], "module 0 is Doubling, which fastnet has no layer for"),
    (lambda: [Linear(4, 4)], "module 0 is Linear, which fastnet has no layer for"),
    (lambda: [nn.ModuleList([nn.ReLU()])], "module 0 is ModuleList, which"),
    (lambda: [nn.LazyLinear(4)], "module 0 is LazyLinear, which"),
    (lambda: [nn.BatchNorm2d(4)], "module 0 is BatchNorm2d, which"),
    (lambda: [hooked(nn.Linear(4, 4))], "module 0 is Linear: it has forward hooks"),
    (lambda: hooked(nn.Sequential(nn.ReLU())), "the module is Sequential: it has forward hooks"),
    (lambda: [patched(nn.Linear(4, 4))], "module 0 is Linear: it has a forward of its own"),
    (lambda: [nn.Sequential(nn.Tanh(), patched(nn.ReLU()))], "module 0.1 is ReLU: it has a forw"),
    (lambda: patched(nn.Sequential(nn.ReLU())), "the module is Sequential: it has a forward of"),
    (lambda: [without(nn.Linear(4, 4), "weight", [None])], "module 0 is Linear: it has no weight"),
    (lambda: [without(nn.Linear(4, 4), "bias")], "module 0 is Linear: .* no attribute 'bias'"),
    (inside_itself, "the module is nested too deeply, or stands inside itself"),
    (lambda: [nn.utils.spectral_norm(nn.Linear(4, 4))], "module 0 is Linear: it has forward hooks"),
    (lambda: [nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))],
     "module 0 is ParametrizedLinear, which"),
    (lambda: [nn.Softmax(dim=0)], "module 0 is Softmax: dim must be 1 or -1, got 0"),
    (lambda: [nn.LogSoftmax()], "module 0 is LogSoftmax: dim must be 1 or -1, got None"),
    (lambda: [nn.Flatten(2)], "module 0 is Flatten: start_dim must be 1, got 2"),
    (lambda: [nn.Flatten(1, 2)], "module 0 is Flatten: end_dim must be -1, got 2"),
    (lambda: [nn.Dropout(1.0)], r"module 0 is Dropout: p must be in the interval \[0, 1\), got 1"),
    (lambda: [nn.LayerNorm((3, 4))],
     r"module 0 is LayerNorm: normalized_shape must have 1 dimension, got \(3, 4\)"),
    (lambda: [nn.LayerNorm(4, eps=0)], "module 0 is LayerNorm: eps must be in the interval"),
    (lambda: [nn.Linear(4, 4).bfloat16()],
     "module 0 is Linear: its weight must be float32 or float64, got bfloat16"),
    (lambda: [nn.Linear(4, 4), nn.LayerNorm(4).double()],
     "module 1 is LayerNorm: its weight must be float32 as those before it, got float64"),
    (lambda: [nn.Linear(4, 4), norm(wide_variance)],
     "module 1 is BatchNorm1d: its running_var must be float32 as those before it, got float64"),
    (lambda: [nn.Linear(4, 4, device="meta")], "module 0 is Linear: weight cannot be made an arr"),
    (lambda: [partly_frozen(nn.Linear(4, 4))],
     "module 0 is Linear: weight and bias must both require gradients, or neither"),
    (lambda: [partly_frozen(nn.LayerNorm(4))], "module 0 is LayerNorm: weight and bias must both"),
    (lambda: [nn.Linear(4, 4), nn.BatchNorm1d(4)],
     r"module 1 is BatchNorm1d: it is in training mode, .*: call eval\(\)"),
    (lambda: [nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False).eval()],
     "module 1 is BatchNorm1d: it keeps no running statistics"),
    (lambda: [nn.Linear(4, 4), norm(features=1)],
     "module 1 is BatchNorm1d: it takes 1 features, but the Linear beside it has 4"),
    (lambda: [norm(features=1), nn.Linear(4, 3)],
     "module 0 is BatchNorm1d: it takes 1 features, but the Linear beside it has 4"),
    (lambda: [nn.Linear(4, 4), norm(partly_frozen)],
     "module 1 is BatchNorm1d: weight and bias must both require gradients, or neither"),
    (lambda: [filled(nn.Linear(4, 4), 1e38), norm(lambda one: filled(one, 100))],
     r"module 1 is BatchNorm1d: weight\[0, 0\] is .*, too large for float32"),
    (lambda: [norm(lambda one: filled(one, 100)), filled(nn.Linear(4, 4), 1e38)],
     r"module 0 is BatchNorm1d: weight\[0, 0\] is .*, too large for float32"),
    (lambda: [nn.Linear(4, 4), nn.ReLU(), norm()], f"module 2 is BatchNorm1d: {nowhere}"),
    (lambda: [norm(), nn.ReLU(), nn.Linear(4, 4)], f"module 0 is BatchNorm1d: {nowhere}"),
    (lambda: norm(), f"the module is BatchNorm1d: {nowhere}"),
    (lambda: [nn.Linear(4, 3), nn.Linear(4, 3)], "Dense.4, 3. takes 4 features, but is given 3"),
    (lambda: nn.Sequential(), "layers must hold at least 1 layer, got 0"),
]


@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
@pytest.mark.parametrize("make, message", BAD_MODULES, ids=[message for _, message in BAD_MODULES])
def test_a_module_that_fastnet_cannot_be_is_named(make, message):
    made = make()
    with pytest.raises(ValueError, match=f"^{message}"):
        fn.from_torch(nn.Sequential(*made) if isinstance(made, list) else made)


@pytest.mark.parametrize("module", [None, [nn.Linear(2, 2)], nn.Linear, torch.zeros(2)], ids=type)
def test_what_is_no_module(module):
    with pytest.raises(TypeError, match="^the module must be a torch.nn.Module, got"):
        fn.from_torch(module)


def test_shared_parameters_are_refused_and_shared_activations_are_not(rng):
    linear, relu = nn.Linear(4, 4), nn.ReLU()
    module = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu)
    x = rng.normal(size=(7, 4)).astype("float32")
    assert_close(fn.from_torch(module).predict(x), of_torch(module, x))
    with pytest.raises(ValueError, match=r"^module 2.0 is Linear: it shares a parameter with "
                                         r"another \(module 0 is Linear\)"):
        fn.from_torch(nn.Sequential(linear, relu, nn.Sequential(linear)))
    module[2].weight = module[0].weight                 # tied
    with pytest.raises(ValueError, match="module 2 is Linear: it shares a parameter"):
        fn.from_torch(module)


class DoubledDense(fn.Dense):
    def forward(self, x, out=None):
        return 2 * super().forward(x)


class Pair(Own):
    """A layer of one's own that holds others, and does not call them one after the other."""

    def __init__(self, *layers):
        self.layers = layers

    def forward(self, x):
        return self.layers[0].forward(x) + self.layers[1].forward(x)

    def parameters(self):
        return [one for layer in self.layers for one in layer.parameters()]


@pytest.mark.parametrize("make, message", [
    (lambda: [fn.Dense(4, 3, activation="relu"), fn.Residual([fn.Dense(3, 3)])],
     "module 2 would be Residual, which PyTorch has no module for"),
    (lambda: [fn.Sequential([fn.Dense(4, 3), fn.Scale(2)])],
     "module 1 would be Scale, which PyTorch has no module for"),
    (lambda: [fn.ReLU(), DoubledDense(4, 3)], "module 1 would be DoubledDense, which PyTor"),
    (lambda: [fn.Dense(4, 3), Own()], "module 1 would be Own, which PyTorch has no mo"),
    (lambda: [fn.Dense(4, 3, activation=Own())], "module 1 would be Own, which"),
    (lambda: [fn.Dense(4, 3), Pair(fn.Dense(3, 2), fn.Dense(3, 2))], "module 1 would be Pair, w"),
], ids=["Residual", "Scale", "subclass", "own", "own activation", "own with layers"])
def test_a_layer_that_torch_does_not_have_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        fn.Sequential(make()).to_torch()


@pytest.mark.parametrize("wrap", [lambda layer: layer, lambda layer: fn.Residual([layer])])
def test_parameters_of_a_layer_of_ones_own_have_no_names(wrap):
    network = fn.Sequential([fn.Dense(4, 2), wrap(Pair(fn.Dense(2, 2), fn.Dense(2, 2)))])
    for call in (network.state_dict, lambda: network.load_state_dict({})):
        with pytest.raises(ValueError, match=r"^parameters of built-in layers have names in "
                                             r"PyTorch, but layer 1(\.0)? is Pair"):
            call()


def test_without_torch_the_message_says_what_to_do_and_states_work():
    script = """
import sys
sys.modules["torch"] = None         # as if it were not there
import fastnet as fn
network = fn.Sequential([fn.Dense(2, 2)])
network.load_state_dict(network.state_dict())
for call in (network.to_torch, lambda: fn.from_torch(None)):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines() == 2 * ["to_torch and from_torch need PyTorch: install torch"]
