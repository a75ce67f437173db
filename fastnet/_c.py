"""A network as one C file, for programs and devices without Python.

The templates below are C for double; `_in_type` makes them C for float. Each takes an input and an
output first, which may be the same array, except in `dense`.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import count
from textwrap import indent
from typing import Any, NamedTuple

import numpy as np

from fastnet._files import as_path, replacing
from fastnet._layer import WeightedLayer
from fastnet.layers import Residual
from fastnet.network import Sequential, _native, _Operations, _Table

__all__ = ["to_c"]

# f(x[i]). The last three would be -infinity * 0 far from 0, where they are 0.
ENTRYWISE = {
    "relu": "x[i] < 0.0 ? 0.0 : x[i]",          # this way round NaN stays NaN
    "leaky_relu": "x[i] > 0.0 ? x[i] : factor * x[i]",
    "elu": "x[i] > 0.0 ? x[i] : factor * expm1(x[i])",
    "scale": "factor * x[i]",
    "sigmoid": "1.0 / (1.0 + exp(-x[i]))",
    "tanh": "tanh(x[i])",
    "gelu": "x[i] < -1000.0 ? 0.0 : 0.5 * x[i] * erfc(-0.7071067811865476 * x[i])",
    "gelu_tanh": "x[i] < -1000.0 ? 0.0\n"
                 "            : x[i] / (1.0 + exp(-1.5957691216057308 * x[i]\n"
                 "                                * (1.0 + 0.044715 * x[i] * x[i])))",
    "silu": "x[i] < -1000.0 ? 0.0 : x[i] / (1.0 + exp(-x[i]))",
}
ENTRYWISE_TEMPLATE = """\
static void NAME_KIND(const double *x, double *y, PARAMETERSint n)
{
    for (int i = 0; i < n; i++)
        y[i] = FORMULA;
}
"""
HELPERS = {
    kind: ENTRYWISE_TEMPLATE.replace("KIND", kind).replace("FORMULA", formula).replace(
        "PARAMETERS", "double factor, " if "factor" in formula else "")
    for kind, formula in ENTRYWISE.items()}
HELPERS["dense"] = """\
/* y = x * weight + bias; weight holds a row for each input. Without a bias its pointer is 0. */
static void NAME_dense(
    const double *x, double *y, const double *weight, const double *bias, int n_in, int n_out)
{
    for (int j = 0; j < n_out; j++)
        y[j] = bias ? bias[j] : 0.0;
    for (int i = 0; i < n_in; i++, weight += n_out)
        for (int j = 0; j < n_out; j++)
            y[j] += x[i] * weight[j];
}
"""
HELPERS["layer_norm"] = """\
/* y = weight * (x - mean) / sqrt(variance + eps) + bias; without these, their pointers are 0.
   The first entry is taken off before the sums, which lose fewer digits near 0. */
static void NAME_layer_norm(
    const double *x, double *y, const double *weight, const double *bias, double eps, int n)
{
    const double first = x[0];
    double mean = 0.0, variance = 0.0, scale;

    for (int i = 0; i < n; i++) {
        y[i] = x[i] - first;
        mean += y[i];
    }
    mean /= (double)n;
    for (int i = 0; i < n; i++) {
        y[i] -= mean;
        variance += y[i] * y[i];
    }
    variance /= (double)n;
    scale = 1.0 / sqrt(variance + eps);
    for (int i = 0; i < n; i++)
        y[i] = y[i] * scale * (weight ? weight[i] : 1.0) + (bias ? bias[i] : 0.0);
}
"""
HELPERS["softmax"] = """\
/* y = exp(x) / sum(exp(x)); the largest entry is taken off first, so that nothing overflows. */
static void NAME_softmax(const double *x, double *y, int n)
{
    double largest = x[0], sum = 0.0;

    for (int i = 1; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    for (int i = 0; i < n; i++) {
        y[i] = exp(x[i] - largest);
        sum += y[i];
    }
    for (int i = 0; i < n; i++)
        y[i] /= sum;
}
"""
HELPERS["log_softmax"] = """\
/* y = x - log(sum(exp(x))); the largest entry is taken off first, so that nothing overflows. */
static void NAME_log_softmax(const double *x, double *y, int n)
{
    double largest = x[0], sum = 0.0;

    for (int i = 1; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    for (int i = 0; i < n; i++)
        sum += exp(x[i] - largest);
    sum = log(sum);
    for (int i = 0; i < n; i++)
        y[i] = x[i] - largest - sum;
}
"""
HELPERS["add"] = """\
static void NAME_add(const double *x, double *y, const double *other, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] + other[i];
}
"""
# What a helper takes after input and output; where it is not said, a factor if it has one.
ARGUMENTS = {
    "dense": ["weight", "bias", "n_in", "n"],
    "layer_norm": ["weight", "bias", "eps", "n"],
    "add": ["other", "n"],
}
FUNCTION = """\
void NAME(const double *x, double *y)
{
BODY
}
"""
HEADER = """\
/* NAME: a network of fastnet VERSION in C99, for one sample.

TABLE

   NAME reads NAME_inputs numbers at x, and writes NAME_outputs at y, which must not
   overlap x. Sums are in the type of the weights, in plain order. Any number of threads may call
   it. It allocates nothing; STACK bytes of the stack hold what is between the layers.
   Compile with: cc -std=c99 -O3 -c NAME.c LIBRARY*/

"""
MATH = ["erfc", "exp", "expm1", "log", "sqrt", "tanh"]

# What C says with its own meaning, up to C23, and compilers where no standard is asked for.
RESERVED = set("""
    main asm linux unix
    alignas alignof auto bool break case char const constexpr continue default do double else enum
    extern false float for goto if inline int long nullptr register restrict return short signed
    sizeof static static_assert struct switch thread_local true typedef typeof typeof_unqual union
    unsigned void volatile while _Alignas _Alignof _Atomic _BitInt _Bool _Complex _Decimal128
    _Decimal32 _Decimal64 _Generic _Imaginary _Noreturn _Static_assert _Thread_local""".split())
# What math.h says, from which compilers also take what no file calls; each also as LONG_OR_SHORT.
RESERVED_IN_TYPES = set("""
    acos acosh asin asinh atan atan2 atanh canonicalize cbrt ceil compoundn copysign cos cosh drem
    erf erfc exp exp10 exp2 expm1 fabs fdim finite floor fma fmax fmaximum fmaximum_mag
    fmaximum_mag_num fmaximum_num fmaxmag fmin fminimum fminimum_mag fminimum_mag_num fminimum_num
    fminmag fmod frexp fromfp fromfpx gamma getpayload hypot ilogb isinf isnan j0 j1 jn ldexp lgamma
    llogb llrint llround log log10 log1p log2 logb lrint lround modf nan nearbyint nextafter
    nextdown nexttoward nextup pow pown powr remainder remquo rint rootn round roundeven rsqrt scalb
    scalbln scalbn setpayload setpayloadsig significand sin sincos sinh sqrt tan tanh tgamma
    totalorder totalordermag trunc ufromfp ufromfpx y0 y1 yn
    acospi asinpi atan2pi atanpi cospi exp10m1 exp2m1 log10p1 log2p1 logp1 sinpi tanpi
    fadd fsub fmul fdiv fsqrt ffma dadd dsub dmul ddiv dsqrt dfma
    M_E M_LOG2E M_LOG10E M_LN2 M_LN10 M_PI M_PI_2 M_PI_4 M_1_PI M_2_PI M_2_SQRTPI M_SQRT2
    M_SQRT1_2""".split())
LONG_OR_SHORT = "(f|l|f16|f32x?|f64x?|f128)?(_r)?"
RESERVED |= set("""
    float_t double_t signgam fpclassify iscanonical iseqsig isfinite isgreater isgreaterequal isless
    islessequal islessgreater isnormal issignaling issubnormal isunordered iszero signbit
    math_errhandling MAXFLOAT HUGE NAN INFINITY DOMAIN SING OVERFLOW UNDERFLOW PLOSS TLOSS
    NULL offsetof size_t ptrdiff_t wchar_t nullptr_t max_align_t unreachable
    memccpy memchr memcmp memcpy memmove memset memset_explicit strcat strchr strcmp strcoll strcpy
    strcspn strdup strerror strlen strncat strncmp strncpy strndup strpbrk strrchr strspn strstr
    strtok strxfrm""".split())
# Names of which there are many: those of compilers, and what stdint.h and math.h make in a row.
RESERVED_ROWS = re.compile(
    r"_[_A-Z].*|u?int(ptr|max|(_fast|_least)?\d+)_t|U?INT(PTR|MAX|(_FAST|_LEAST)?\d+)_[A-Z]+"
    r"|(PTRDIFF|SIZE|SIG_ATOMIC|WCHAR|WINT)_[A-Z]+|(FP|MATH)_[A-Z0-9_]+|(HUGE_VAL|SNAN)[A-Z0-9_]*")


def to_c(
    network: Sequential, path: str | bytes | os.PathLike[Any], *, name: str = "predict"
) -> None:
    """Write a network as a C99 file that needs no other file and no library but C's own.

    It defines `void NAME(const float *x, float *y)`, which does what `predict` does for one sample,
    with double for float; `enum { NAME_inputs, NAME_outputs }`, the lengths of `x` and `y`; and
    everything else as static. It allocates nothing and changes nothing but `y`: what is between
    the layers is on the stack, in as few arrays as possible. A sample of several dimensions, before
    a `Flatten`, is given in C order. `Dropout` is left out.

    Sums are those of the network's dtype, in plain order, so outputs agree with `predict` up to
    rounding. What is in a `LayerNorm` must be small enough to be squared in this dtype.

    Parameters
    ----------
    network : Sequential
        Of built-in layers, with a `Dense` or a `LayerNorm` among them.
    path : str, bytes or path
        The file appears when it is complete, and replaces one that is there.
    name : str
        What to call the function; other names in the file that a program sees begin with it.

    Raises
    ------
    TypeError
        No Sequential, no path, a name that is no str.
    ValueError
        A layer that is not built in; no layer that tells how many inputs there are; parameters or
        options that are not finite numbers of the network's dtype; a name that is no identifier of
        C, or that C has a meaning for.
    OSError
        As of any file.

    Examples
    --------
    >>> net = fastnet.Sequential([fastnet.Dense(2, 3, activation="relu"), fastnet.Dense(3, 1)])
    >>> fastnet.to_c(net, "predict.c")      # doctest: +SKIP
    """
    if not isinstance(network, Sequential):
        raise TypeError(f"network must be a Sequential, got {network!r}")
    path = as_path(path)
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or _is_reserved(name):
        raise ValueError("name must be an identifier that C has no other meaning for, "
                         f"got {name!r}")
    if _check_layers(network.layers) == 0:
        raise ValueError("network must have a Dense or a LayerNorm, which tell how many inputs it "
                         f"takes, got {network!r}")
    with network._use:
        program = _Program(network)
    with replacing(path) as file:
        for piece in program.pieces():
            file.write(piece.replace("NAME", name).encode())


def _is_reserved(name: str) -> bool:
    """Return whether a name has a meaning in C, or in the headers that a compiler knows."""
    return (name in RESERVED or RESERVED_ROWS.fullmatch(name) is not None
            or any(name.startswith(word) and re.fullmatch(LONG_OR_SHORT, name[len(word):])
                   for word in RESERVED_IN_TYPES))


def _check_layers(layers: Iterable[Any], place: str = "") -> int:
    """Return how many layers have a width; ValueError for one that has no form in C."""
    found = 0
    for index, layer in enumerate(layers):
        if not _native(layer):
            raise ValueError(f"layer {place}{index} must be built in to be written in C, with its "
                             f"activation, got {layer!r}")
        found += isinstance(layer, WeightedLayer)
        if isinstance(layer, (Sequential, Residual)):
            found += _check_layers(layer.layers, f"{place}{index}.")
    return found


class _Call(NamedTuple):
    """A call of a helper: `arguments` come after source and target, which gets `n_out` numbers."""

    helper: str
    source: str
    target: str
    arguments: tuple[str, ...]
    n_out: int

    def __str__(self) -> str:
        return f"NAME_{self.helper}({', '.join([self.source, self.target, *self.arguments])});"


class _Program:
    """What a network becomes in C: arrays, and calls of helpers one after another."""

    def __init__(self, network: Sequential) -> None:
        self.dtype = network.dtype
        self.type = {"float32": "float", "float64": "double"}[self.dtype.name]
        self.table = network._table()
        operations = _Operations(network.layers, self.dtype, network._in_features())
        self.n_in, self.n_out = operations.list[0]["n_in"], operations.width
        self.arrays: dict[str, np.ndarray] = {}
        names = {-1: "0"}                       # where there is none: C's null pointer
        starts = [start for _, places in operations.weighted for start, _ in places]
        for start, (name, value, _) in zip(starts, network.parameters(), strict=True):
            if not np.isfinite(value).all():
                raise ValueError(f"parameter {name} must be finite, got "
                                 f"{value[~np.isfinite(value)][0]}")
            names[start] = f"NAME_{name.replace('.', '_')}"
            self.arrays[names[start]] = value
        self.calls = list(self._calls(operations.list, names))
        self.scratch: dict[str, int] = {}       # arrays between the calls, and their lengths
        for call in self.calls[:-1]:
            self.scratch[call.target] = max(self.scratch.get(call.target, 0), call.n_out)
        self.calls[-1] = self.calls[-1]._replace(target="y")

    def _calls(self, operations: list[dict[str, Any]], names: dict[int, str]) -> Iterator[_Call]:
        """Yield a call for every operation that does something in prediction."""
        source = "x"
        kept: list[str] = []            # inputs of the Residuals that we are in
        for operation in operations:
            helper = operation.get("function", operation["kind"])
            if helper == "remember":
                kept.append(source)
            if helper in ("remember", "dropout"):
                continue
            other = kept.pop() if helper == "add" else ""
            factor, n_out = operation.get("factor", 0.0), operation["n_out"]
            values = {
                "weight": names[operation.get("weight", -1)],
                "bias": names[operation.get("bias", -1)],
                "factor": self._constant(factor, helper),
                "eps": self._constant(max(factor, np.finfo(self.dtype).tiny), helper),
                "other": other, "n_in": str(operation["n_in"]), "n": str(n_out)}
            by_default = ["factor", "n"] if "factor" in HELPERS[helper] else ["n"]
            arguments = tuple(values[key] for key in ARGUMENTS.get(helper, by_default))
            taken = {"x", source, *kept}
            if helper != "dense" and source not in ("x", *kept):
                target = source         # in place
            else:
                target = next(name for name in map("h{}".format, count()) if name not in taken)
            yield _Call(helper, source, target, arguments, n_out)
            source = target

    def _constant(self, value: float, helper: str) -> str:
        with np.errstate(over="ignore"):
            number = self.dtype.type(value)
        if not np.isfinite(number):
            raise ValueError(f"the constant of {helper} must be a finite {self.dtype}, got {value}")
        return self._literal(number)

    def _literal(self, number: Any) -> str:
        """Return a decimal with a point, and digits enough to be read as the same number."""
        return f"{float(number):#.9g}f" if self.type == "float" else f"{float(number):#.17g}"

    def _in_type(self, template: str) -> str:
        """Return C for the network's dtype."""
        if self.type == "double":
            return template
        code = re.sub(r"\bdouble\b", "float", template)
        code = re.sub(rf"\b({'|'.join(MATH)})\(", r"\1f(", code)
        return re.sub(r"\d+\.\d+", r"\g<0>f", code)

    def pieces(self) -> Iterator[str]:
        """Yield the file's text, in pieces of which none is much longer than a line."""
        helpers = [HELPERS[helper] for helper in dict.fromkeys(call.helper for call in self.calls)]
        needs_math = any(re.search(rf"\b({'|'.join(MATH)})\(", code) for code in helpers)
        table = re.sub(" +$", "", indent(str(_Table(self.table.rows, self.table.notes[:1])), "   "),
                       flags=re.MULTILINE)
        stack = sum(self.scratch.values()) * self.dtype.itemsize
        yield (HEADER.replace("VERSION", sys.modules["fastnet"].__version__)
               .replace("TABLE", table).replace("STACK", f"{stack:,}")
               .replace("LIBRARY", "(and link with -lm) " if needs_math else ""))
        if needs_math:
            yield "#include <math.h>\n\n"
        yield f"enum {{ NAME_inputs = {self.n_in}, NAME_outputs = {self.n_out} }};\n\n"
        yield self._in_type("void NAME(const double *x, double *y);\n\n")
        for name, value in self.arrays.items():
            yield from self._array(name, value)
        for code in helpers:
            yield self._in_type(code) + "\n"
        arrays = ", ".join(f"{name}[{length}]" for name, length in self.scratch.items())
        lines = [f"{self.type} {arrays};", ""] if arrays else []
        body = "\n".join(f"    {line}" if line else "" for line in [*lines, *map(str, self.calls)])
        yield self._in_type(FUNCTION).replace("BODY", body)

    def _array(self, name: str, value: np.ndarray) -> Iterator[str]:
        """Yield the definition of an array, some numbers a line."""
        shape = " x ".join(map(str, value.shape))
        yield f"static const {self.type} {name}[{value.size}] = {{      /* {shape} */\n"
        numbers = value.ravel()
        per_line = 24 // self.dtype.itemsize
        for start in range(0, len(numbers), per_line):
            line = ", ".join(map(self._literal, numbers[start:start + per_line]))
            yield f"    {line},\n"
        yield "};\n\n"
