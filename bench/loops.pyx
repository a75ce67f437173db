"""Loops in C for `python -m bench kernels --peers`, free of what Python's calls cost.

native.py compiles this module when it is needed, for one float type and one instruction set, as
setup.py compiles the kernels: FASTNET_BITS tells what `real` and `vec` are. Each function takes
arrays of that type, as bench makes them, does its work `repeat` times, and checks nothing.
"""
import importlib

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer
from scipy.linalg.cython_blas cimport dgemm, sgemm

from fastnet import _ops
from fastnet._table cimport KernelTable, real

cdef extern from "_machine.h":
    ctypedef float vec
    enum:
        FASTNET_BITS
        LANES
    vec broadcast(real x)
    void store_first(real *p, vec v, Py_ssize_t n)

cdef enum:
    ACCUMULATORS = 12           # hide the latency of two multiply-adds per cycle, in 16 registers
    STEPS = 100

FLOP = 2 * STEPS * ACCUMULATORS * LANES     # of one repetition of multiply_add

cnp.import_array()
_isa = _ops.isa.replace("-", "_")
_module = importlib.import_module(f"fastnet._kernels_float{FASTNET_BITS}_{_isa}")
cdef const KernelTable *kernels = <const KernelTable *>PyCapsule_GetPointer(
    _module.table, "fastnet.KernelTable")


cdef inline real *data(cnp.ndarray array):
    return <real *>cnp.PyArray_DATA(array)


def forward(cnp.ndarray X, cnp.ndarray W, cnp.ndarray b, cnp.ndarray Z, bint relu, int repeat):
    """Z := X W + b, then max(Z, 0) if relu; fastnet's kernel."""
    for _ in range(repeat):
        kernels.dense_forward(
            data(X), data(W), data(b), data(Z), X.shape[0], X.shape[1], W.shape[1], relu,
            X.shape[0], 0, W.shape[1])
    return Z


def backward_dX(cnp.ndarray W, cnp.ndarray dZ, cnp.ndarray dX, int repeat):
    """dX := dZ W^T; fastnet's kernel."""
    for _ in range(repeat):
        kernels.dense_backward(
            NULL, data(W), data(dZ), data(dX), NULL, NULL, dZ.shape[0], W.shape[0], W.shape[1],
            False, False)
    return dX


def backward_dW(cnp.ndarray X, cnp.ndarray dZ, cnp.ndarray dW, int repeat):
    """dW := X^T dZ; fastnet's kernel."""
    for _ in range(repeat):
        kernels.dense_backward(
            data(X), NULL, data(dZ), NULL, data(dW), NULL, X.shape[0], X.shape[1], dZ.shape[1],
            False, False)
    return dW


def gemm(cnp.ndarray A, cnp.ndarray B, cnp.ndarray C, int repeat):
    """C := A B; sgemm or dgemm of SciPy's BLAS. A and B are C-contiguous or transposes of such.

    BLAS reads columns where these arrays have rows, so it is asked for C^T = B^T A^T.
    """
    cdef bint transposed_a = not A.flags.c_contiguous, transposed_b = not B.flags.c_contiguous
    cdef char *of_a = b"T" if transposed_a else b"N"
    cdef char *of_b = b"T" if transposed_b else b"N"
    cdef int m = A.shape[0], k = A.shape[1], n = B.shape[1]
    cdef int row_a = m if transposed_a else k, row_b = k if transposed_b else n     # their lengths
    cdef float one = 1, zero = 0
    cdef double double_one = 1, double_zero = 0
    for _ in range(repeat):
        if FASTNET_BITS == 32:
            sgemm(of_b, of_a, &n, &m, &k, &one, <float *>data(B), &row_b,
                  <float *>data(A), &row_a, &zero, <float *>data(C), &n)
        else:
            dgemm(of_b, of_a, &n, &m, &k, &double_one, <double *>data(B), &row_b,
                  <double *>data(A), &row_a, &double_zero, <double *>data(C), &n)
    return C


def multiply_add(Py_ssize_t repeat):
    """The peak: FLOP operations at a time on registers alone, in independent chains.

    Every lane runs into 2 = 2 / 2 + 1; their sum is returned so that no compiler drops the loop.
    """
    cdef vec chains[ACCUMULATORS]
    cdef vec total = broadcast(0), half = broadcast(0.5), one = broadcast(1)
    cdef real lanes[LANES]
    cdef Py_ssize_t i
    for i in range(ACCUMULATORS):
        chains[i] = total
    for _ in range(repeat * STEPS):
        for i in range(ACCUMULATORS):
            chains[i] = chains[i] * half + one
    for i in range(ACCUMULATORS):
        total = total + chains[i]
    store_first(lanes, total, LANES)
    return sum([lanes[i] for i in range(LANES)])
