# Dense layer:  Z = X W + b,  and its mirror  dX = dZ W^T,  dW = X^T dZ,  db = sum of dZ's rows.
#
# Each is one product of _products.pxi. What differs is which way round it is computed: vectors lie
# along the dimension that fills them, and what has to be transposed first is the smaller matrix.

cdef enum:
    BAND = 4        # vectors of columns that are added up together
    PANEL = 1024    # vectors on the stack for the transposed weights of a narrow layer: 64 KB


cdef inline void sum_band(
        const real *A, real *sums, Py_ssize_t m, Py_ssize_t n, Py_ssize_t first,
        int vectors) noexcept nogil:
    """sums[j] = sum_i A[i, j]   for `vectors` vectors of columns from the first on, in double."""
    cdef dvec totals[BAND * PARTS]
    cdef vec v
    cdef Py_ssize_t i, at
    cdef int j, k
    for k in range(vectors * PARTS):
        totals[k] = broadcast_double(0)
    for i in range(m):
        for j in range(vectors):
            at = i * n + first + j * LANES
            v = load(A + at, m * n - at)    # what is there, even of the next row
            for k in range(PARTS):
                totals[j * PARTS + k] = totals[j * PARTS + k] + widen(v, k)
    for j in range(vectors):
        for k in range(PARTS):
            narrow(totals[j * PARTS + k], &v, k)
        store(sums + first + j * LANES, v, n - first - j * LANES)


cdef void sum_rows(const real *A, real *sums, Py_ssize_t m, Py_ssize_t n) noexcept nogil:
    """sums[j] = sum_i A[i, j], added up in double."""
    cdef Py_ssize_t first = 0
    while first < n:
        if n - first >= BAND * LANES:
            sum_band(A, sums, m, n, first, BAND)
            first += BAND * LANES
        else:
            sum_band(A, sums, m, n, first, 1)
            first += LANES


cdef void forward_by_dots(
        const real *X, const real *W, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu) noexcept nogil:
    """As `dense_forward`, by `dots` with the columns of W as rows: at most PANEL vectors."""
    cdef vec panel[PANEL]
    cdef vec columns[LANES]
    cdef Py_ssize_t row = padded(n_in), p, j, q
    for p from 0 <= p < n_in by LANES:
        for j from 0 <= j < n_out by LANES:
            load_transposed(W + p * n_out + j, n_out, n_in - p, n_out - j,
                            (n_in - p) * n_out - j, columns)
            for q in range(min(n_out - j, <Py_ssize_t>LANES)):
                (<vec_in_array *>(<real *>panel + (j + q) * row + p))[0] = columns[q]
    dots(X, n_in, <const real *>panel, row, b, Z, n_out, n, n_out, n_in, relu)


cdef void dense_forward(
        const real *X, const real *W, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu) noexcept nogil:
    """Z = X W + b, then max(Z, 0) if relu."""
    # Per row of X: vectors of Z for each input, against vectors of X for each output and some 3
    # vectors' worth of adding up lanes.
    cdef Py_ssize_t by_tiles = n_in * (padded(n_out) // LANES)
    cdef Py_ssize_t by_dots = n_out * (padded(n_in) // LANES + 3)
    if n >= 8 and by_dots < by_tiles and n_out * padded(n_in) <= PANEL * <Py_ssize_t>LANES:
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
