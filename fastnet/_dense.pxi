# Dense layer:  Z = X W + b,  and its mirror  dX = dZ W^T,  dW = X^T dZ,  db = sum of dZ's rows.
#
# A tile of the result stays in registers while the inner dimension is walked: `rows_tile` adds up
# scaled rows of B (forward and dW), `dots_tile` multiplies rows with rows (dX). Tile sizes are
# constants at every call, so that each inlined copy is unrolled; edges go by smaller tiles.

cdef enum:
    ROWS = 6        # height of a rows_tile
    VECTORS = 2     # its width, in vectors
    DOT_ROWS = 4    # height of a dots_tile
    COLS = 3        # its width, in columns
    BAND = 64       # columns whose sums are taken together in double


cdef inline void rows_tile(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col, const real *B, real *C,
        Py_ssize_t k, Py_ssize_t n, int rows, int vectors) noexcept nogil:
    """C[i, j] += sum_p A[i, p] B[p, j]   for `rows` times `vectors * LANES` entries of C.

    A[i, p] stands at A[i * a_row + p * a_col]; rows of B and C are n apart.
    """
    cdef vec c[ROWS * VECTORS]
    cdef vec b[VECTORS]
    cdef Py_ssize_t p
    cdef int i, j
    for i in range(rows):
        for j in range(vectors):
            c[i * vectors + j] = (<const vec *>(C + i * n + j * LANES))[0]
    for p in range(k):
        for j in range(vectors):
            b[j] = (<const vec *>(B + p * n + j * LANES))[0]
        for i in range(rows):
            for j in range(vectors):
                c[i * vectors + j] = c[i * vectors + j] + A[i * a_row + p * a_col] * b[j]
    for i in range(rows):
        for j in range(vectors):
            (<vec *>(C + i * n + j * LANES))[0] = c[i * vectors + j]


cdef inline void rows_strip(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col, const real *B, real *C,
        Py_ssize_t m, Py_ssize_t k, Py_ssize_t n, int vectors) noexcept nogil:
    """`rows_tile` down all m rows of a strip `vectors` wide."""
    cdef Py_ssize_t i = 0
    while i + ROWS <= m:
        rows_tile(A + i * a_row, a_row, a_col, B, C + i * n, k, n, ROWS, vectors)
        i += ROWS
    while i < m:
        rows_tile(A + i * a_row, a_row, a_col, B, C + i * n, k, n, 1, vectors)
        i += 1


cdef inline void add_narrow(
        const real *a, Py_ssize_t a_col, const real *B, real *c,
        Py_ssize_t k, Py_ssize_t n, Py_ssize_t width) noexcept nogil:
    """c[j] += sum_p a[p] B[p, j]   for one row of fewer than LANES entries."""
    cdef Py_ssize_t p, j
    for p in range(k):
        for j in range(width):
            c[j] = c[j] + a[p * a_col] * B[p * n + j]


cdef void add_product(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col, const real *B, real *C,
        Py_ssize_t m, Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    """C (m, n) += A (m, k) B (k, n)."""
    cdef Py_ssize_t i, p, j = 0
    while j + VECTORS * LANES <= n:
        rows_strip(A, a_row, a_col, B + j, C + j, m, k, n, VECTORS)
        j += VECTORS * LANES
    while j + LANES <= n:
        rows_strip(A, a_row, a_col, B + j, C + j, m, k, n, 1)
        j += LANES
    if j < n:                       # columns left over, fewer than one vector
        for i in range(m):
            add_narrow(A + i * a_row, a_col, B + j, C + i * n + j, k, n, n - j)


cdef inline void dots_tile(
        const real *A, const real *B, real *C,
        Py_ssize_t k, Py_ssize_t n, int rows, int cols) noexcept nogil:
    """C[i, j] = sum_p A[i, p] B[j, p]   for rows x cols entries of C; rows of A and B have k."""
    cdef vec c[DOT_ROWS * COLS]
    cdef vec a
    cdef real total
    cdef Py_ssize_t p = 0, q
    cdef int i, j
    for i in range(rows * cols):
        c[i] = broadcast(0)
    while p + LANES <= k:
        for i in range(rows):
            a = (<const vec *>(A + i * k + p))[0]
            for j in range(cols):
                c[i * cols + j] = c[i * cols + j] + a * (<const vec *>(B + j * k + p))[0]
        p += LANES
    for i in range(rows):
        for j in range(cols):
            total = 0
            for q in range(LANES):
                total = total + (<const real *>&c[i * cols + j])[q]
            for q in range(p, k):
                total = total + A[i * k + q] * B[j * k + q]
            C[i * n + j] = total


cdef inline void dots_strip(
        const real *A, const real *B, real *C,
        Py_ssize_t k, Py_ssize_t n, int rows) noexcept nogil:
    """`dots_tile` along all n columns of a strip `rows` high."""
    cdef Py_ssize_t j = 0
    while j + COLS <= n:
        dots_tile(A, B + j * k, C + j, k, n, rows, COLS)
        j += COLS
    while j < n:
        dots_tile(A, B + j * k, C + j, k, n, rows, 1)
        j += 1


cdef void dots_product(
        const real *A, const real *B, real *C,
        Py_ssize_t m, Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    """C (m, n) := A (m, k) B^T   with B (n, k)."""
    cdef Py_ssize_t i = 0
    while i + DOT_ROWS <= m:
        dots_strip(A + i * k, B, C + i * n, k, n, DOT_ROWS)
        i += DOT_ROWS
    while i < m:
        dots_strip(A + i * k, B, C + i * n, k, n, 1)
        i += 1


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


cdef void dense_forward(
        const real *X, const real *W, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu) noexcept nogil:
    """Z = X W + b."""
    cdef Py_ssize_t i, j
    for i in range(n):
        for j in range(n_out):
            Z[i * n_out + j] = b[j] if b != NULL else 0
    add_product(X, n_in, 1, W, Z, n, n_in, n_out)
    if relu:
        relu_forward(Z, Z, n * n_out)


cdef void dense_backward(
        const real *X, const real *W, const real *dZ, real *dX, real *dW, real *db,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """dX = dZ W^T,   dW = X^T dZ,   db = sum of dZ's rows."""
    cdef Py_ssize_t i
    if dX != NULL:
        dots_product(dZ, W, dX, n, n_out, n_in)
    if dW != NULL:
        for i in range(n_in * n_out):
            dW[i] = 0
        add_product(X, 1, n_in, dZ, dW, n_in, n, n_out)
    if db != NULL:
        sum_rows(dZ, db, n, n_out)
