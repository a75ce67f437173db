# Softmax over the classes of each row, and its backward.
#
# The row's maximum is subtracted first, so exp never overflows; it starts at element 0, so a row
# with a NaN gives NaN everywhere. Exponentials and sums are double for both float types.


cdef inline double row_maximum(const real *x, Py_ssize_t n_classes) noexcept nogil:
    cdef real largest = x[0]
    cdef Py_ssize_t j
    for j in range(1, n_classes):
        if x[j] > largest:
            largest = x[j]
    return largest


cdef inline double row_sum_exp(
        const real *x, double shift, Py_ssize_t n_classes) noexcept nogil:
    """sum_j exp(x_j - shift)"""
    cdef double total = 0
    cdef Py_ssize_t j
    for j in range(n_classes):
        total += exp(x[j] - shift)
    return total


cdef void softmax_forward(
        const real *X, real *Y, Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    """Y_j = exp(X_j - m) / sum_k exp(X_k - m)   with m the maximum of the row."""
    cdef const real *x
    cdef double shift, total
    cdef Py_ssize_t i, j
    for i in range(n):
        x = X + i * n_classes
        shift = row_maximum(x, n_classes)
        total = row_sum_exp(x, shift, n_classes)
        for j in range(n_classes):
            Y[i * n_classes + j] = <real>(exp(x[j] - shift) / total)


cdef void softmax_backward(
        const real *Y, const real *dY, real *dX,
        Py_ssize_t n, Py_ssize_t n_classes) noexcept nogil:
    """dX_j = Y_j (dY_j - sum_k dY_k Y_k), the Jacobian diag(Y) - Y Y^T times dY."""
    cdef const real *y
    cdef const real *dy
    cdef double dot
    cdef Py_ssize_t i, j
    for i in range(n):
        y = Y + i * n_classes
        dy = dY + i * n_classes
        dot = 0
        for j in range(n_classes):
            dot += <double>dy[j] * y[j]
        for j in range(n_classes):
            dX[i * n_classes + j] = <real>(y[j] * (dy[j] - dot))
