# Element by element: exp and log; ReLU, sum, maximum and multiple, each with its backward.
#
# Comparisons are written so that NaN is passed on: a NaN is neither <= 0 nor smaller than anything.


cdef void exp_forward(const real *X, real *Y, Py_ssize_t size) noexcept nogil:
    """Y = exp(X)."""
    cdef Py_ssize_t i
    for i from 0 <= i < size by LANES:
        store(Y + i, vec_exp(load(X + i, size - i)), size - i)


cdef void log_forward(const real *X, real *Y, Py_ssize_t size) noexcept nogil:
    """Y = log(X)."""
    cdef Py_ssize_t i
    for i from 0 <= i < size by LANES:
        store(Y + i, vec_log(load(X + i, size - i)), size - i)


cdef void relu_forward(const real *X, real *Y, Py_ssize_t size) noexcept nogil:
    """Y = max(X, 0); 0.0 for -0.0; NaN for NaN.  Y may be X."""
    cdef Py_ssize_t i
    for i in range(size):
        Y[i] = 0 if X[i] <= 0 else X[i]


cdef void relu_backward(
        const real *X, const real *dY, real *dX, Py_ssize_t size) noexcept nogil:
    """dX = dY where X > 0, else 0; at 0 the derivative is 0; a NaN in X lets dY pass."""
    cdef Py_ssize_t i
    for i in range(size):
        dX[i] = 0 if X[i] <= 0 else dY[i]


cdef void add_forward(const real *A, const real *B, real *Y, Py_ssize_t size) noexcept nogil:
    """Y = A + B."""
    cdef Py_ssize_t i
    for i in range(size):
        Y[i] = A[i] + B[i]


cdef void add_backward(const real *dY, real *dA, real *dB, Py_ssize_t size) noexcept nogil:
    """dA = dY,   dB = dY."""
    cdef Py_ssize_t i
    for i in range(size):
        dA[i] = dY[i]
        dB[i] = dY[i]


cdef inline bint first_wins(real a, real b) noexcept nogil:
    """Whether max(a, b) is a: on a tie, and when a is NaN, it is."""
    return (a >= b) | (a != a)      # not `or`, which would branch at every entry


cdef void maximum_forward(const real *A, const real *B, real *Y, Py_ssize_t size) noexcept nogil:
    """Y = max(A, B); NaN where either is NaN."""
    cdef Py_ssize_t i
    for i in range(size):
        Y[i] = A[i] if first_wins(A[i], B[i]) else B[i]


cdef void maximum_backward(
        const real *A, const real *B, const real *dY, real *dA, real *dB,
        Py_ssize_t size) noexcept nogil:
    """dA = dY where the maximum was A, else 0;   dB = dY where it was B, else 0."""
    cdef Py_ssize_t i
    for i in range(size):
        dA[i] = dY[i] if first_wins(A[i], B[i]) else 0
        dB[i] = 0 if first_wins(A[i], B[i]) else dY[i]


cdef void scale(const real *X, real *Y, Py_ssize_t size, double factor) noexcept nogil:
    """Y = factor X;   backward: dX = factor dY."""
    cdef Py_ssize_t i
    for i in range(size):
        Y[i] = <real>(factor * X[i])


cdef void scale_rows(
        const real *X, const real *factors, real *Y, Py_ssize_t n, Py_ssize_t width) noexcept nogil:
    """Y_ij = factors_i X_ij."""
    cdef Py_ssize_t i, j
    for i in range(n):
        for j in range(width):
            Y[i * width + j] = factors[i] * X[i * width + j]
