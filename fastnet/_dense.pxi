# Dense layer:  Z = X W + b,  and its mirror  dX = dZ W^T,  dW = X^T dZ,  db = sum of dZ's rows.
#
# Each is one product of _products.pxi. What differs is which way round it is computed: vectors lie
# along the dimension that fills them, and what has to be transposed first is the smaller matrix.

cdef enum:
    BAND = 64       # columns whose sums are taken together in double
    PANEL = 1024    # vectors on the stack for the transposed weights of a narrow layer: 64 KB


cdef void sum_rows(const real *A, real *sums, Py_ssize_t m, Py_ssize_t n) noexcept nogil:
    """sums[j] = sum_i A[i, j], added up in double."""
    cdef double total[BAND]
    cdef Py_ssize_t i, j, width, first = 0
    while first < n:
        width = min(n - first, <Py_ssize_t>BAND)
        for j in range(width):
            total[j] = 0
        for i in range(m):
            for j in range(width):
                total[j] += A[i * n + first + j]
        for j in range(width):
            sums[first + j] = <real>total[j]
        first += width


cdef void forward_by_dots(
        const real *X, const real *W, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu) noexcept nogil:
    """As `dense_forward`, by `dots` with the columns of W as rows: at most PANEL vectors."""
    cdef vec panel[PANEL]
    cdef real *columns = <real *>panel
    cdef Py_ssize_t p, j
    for p in range(n_in):
        for j in range(n_out):
            columns[j * n_in + p] = W[p * n_out + j]
    dots(X, n_in, columns, n_in, b, Z, n_out, n, n_out, n_in, relu)


cdef void dense_forward(
        const real *X, const real *W, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu) noexcept nogil:
    """Z = X W + b, then max(Z, 0) if relu."""
    # Per row of X: vectors of Z for each input, against vectors of X for each output (rounded up
    # to a tile) and some 3 vectors' worth of adding up lanes.
    cdef Py_ssize_t by_tiles = n_in * ((n_out + LANES - 1) // LANES)
    cdef Py_ssize_t by_dots = ((n_out + 3) & ~3) * (n_in // LANES + 3)
    if n >= 8 and by_dots < by_tiles and n_out * n_in <= PANEL * <Py_ssize_t>LANES:
        forward_by_dots(X, W, b, Z, n, n_in, n_out, relu)
    else:
        product(X, n_in, 1, W, n_out, 1, b, Z, n_out, 1, n, n_in, n_out, relu)


cdef void dense_backward(
        const real *X, const real *W, const real *dZ, real *dX, real *dW, real *db,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """dX = dZ W^T,   dW = X^T dZ,   db = sum of dZ's rows."""
    cdef Py_ssize_t vectors_in = (n_in + LANES - 1) // LANES
    cdef Py_ssize_t vectors_out = (n_out + LANES - 1) // LANES
    if dX != NULL:
        if n < 4:
            dots(dZ, n_out, W, n_out, NULL, dX, n_in, n, n_in, n_out, False)
        elif n * (n_out + 3 * n_in) < n_in * n_out:         # dX^T = W dZ^T
            product(W, n_out, 1, dZ, 1, n_out, NULL, dX, 1, n_in, n_in, n_out, n, False)
        else:
            product(dZ, n_out, 1, W, 1, n_out, NULL, dX, n_in, 1, n, n_out, n_in, False)
    if dW != NULL:
        if n * n_out * vectors_in + 2 * n_in * n_out < n * n_in * vectors_out:  # dW^T = dZ^T X
            product(dZ, 1, n_out, X, n_in, 1, NULL, dW, 1, n_out, n_out, n, n_in, False)
        else:
            product(X, 1, n_in, dZ, n_out, 1, NULL, dW, n_out, 1, n_in, n, n_out, False)
    if db != NULL:
        sum_rows(dZ, db, n, n_out)
