# Dense layer:  Z = X W + b,  and its mirror  dX = dZ W^T,  dW = X^T dZ,  db = sum of dZ's rows.
#
# Each is one product of _products.pxi. What differs is which way round it is computed: vectors lie
# along the dimension that fills them, and what has to be transposed first is the smaller matrix.

cdef enum:
    BAND = 64       # vectors of columns that are added up together: their sums fit into a cache
    SUMMED = 8      # rows that are, before they go to these sums
    PANEL = 1024    # vectors on the stack for the transposed weights of a narrow layer: 64 KB


cdef inline void add_rows(
        const real *A, dvec *totals, Py_ssize_t row, Py_ssize_t width, Py_ssize_t left,
        int rows) noexcept nogil:
    """totals[j] += sum_i A[i, j]   for a constant number of rows, 1, 2, 4 or 8, added in pairs."""
    cdef vec v[SUMMED]
    cdef Py_ssize_t j, at
    cdef int i, k, half
    for j from 0 <= j < width by LANES:
        for i in range(rows):
            at = i * row + j
            v[i] = load(A + at, left - at)      # what is there, even of the next row
        half = rows // 2
        while half >= 1:
            for i in range(half):
                v[i] = v[i] + v[i + half]
            half = half // 2
        for k in range(PARTS):
            totals[j // LANES * PARTS + k] = totals[j // LANES * PARTS + k] + widen(v[0], k)


cdef void sum_rows(
        const real *A, real *sums, Py_ssize_t m, Py_ssize_t n, bint add) noexcept nogil:
    """sums[j] = sum_i A[i, j], or += if add: sums of SUMMED rows are added up in double."""
    cdef dvec totals[BAND * PARTS]
    cdef vec v = broadcast(0)
    cdef Py_ssize_t first, i, j, width, vectors, left
    cdef int k
    if m == 1 and not add:
        memcpy(sums, A, n * sizeof(real))
        return
    for first from 0 <= first < n by BAND * LANES:
        width = min(n - first, <Py_ssize_t>BAND * LANES)
        vectors = padded(width) // LANES
        for j in range(vectors * PARTS):
            totals[j] = broadcast_double(0)
        i = 0
        while i < m:
            left = (m - i) * n - first
            if i + SUMMED <= m:
                add_rows(A + i * n + first, totals, n, width, left, SUMMED)
                i += SUMMED
            else:
                add_rows(A + i * n + first, totals, n, width, left, 1)
                i += 1
        for j in range(vectors):
            if add:
                v = load(sums + first + j * LANES, width - j * LANES)
                for k in range(PARTS):
                    totals[j * PARTS + k] = totals[j * PARTS + k] + widen(v, k)
            for k in range(PARTS):
                narrow(totals[j * PARTS + k], &v, k)
            store(sums + first + j * LANES, v, width - j * LANES)


cdef void transpose_weights(
        const real *W, real *rows, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """rows := W^T, each padded to whole vectors."""
    pack_strip(W, 1, n_out, n_in * n_out, rows, padded(n_in), n_out, n_in)


cdef void forward_by_dots(
        const real *X, const real *W, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu) noexcept nogil:
    """As `dense_forward`, by `dots` with the columns of W as rows: at most PANEL vectors."""
    cdef vec panel[PANEL]
    transpose_weights(W, <real *>panel, n_in, n_out)
    dots(X, n_in, <const real *>panel, padded(n_in), b, Z, n_out, n, n_out, n_in, relu)


# What a way costs, in fifths of a multiplication of two vectors; found by measuring. A tile does
# one at a time. For dots both vectors are loaded, and at the end LANES of them are added up. To
# transpose takes 6 for each vector, of which the last may be nearly empty.


cdef inline double by_tiles(Py_ssize_t m, Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    return 5.0 * m * k * (padded(n) // LANES)


cdef inline double by_dots(Py_ssize_t m, Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    if m > 2:
        m = (m + 3) & ~3
    return <double>m * n * (7 * (padded(k) // LANES) + 15)


cdef inline double to_transpose(Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    return 30.0 * padded(k) * (padded(n) // LANES)


cdef inline Py_ssize_t like_batch(Py_ssize_t n) noexcept nogil:
    """The batch size by which a way is chosen for n rows.

    From 16 on many sizes go by one, so that a row has the same bits whichever of them it is in.
    """
    return n if n < 16 else 20 if n < 32 else 44 if n < 64 else 128


cdef void dense_forward(
        const real *X, const real *W, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu,
        Py_ssize_t rows, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    """Z = X W + b, then max(Z, 0) if relu, of some rows and columns. How depends on all n rows.

    Ways that are for small layers do all columns with the first.
    """
    cdef Py_ssize_t like = like_batch(n)
    cdef double by_rows = by_dots(like, n_in, n_out), tiles = by_tiles(like, n_in, n_out)
    cdef bint flips = n_out > 1 and by_rows + to_transpose(n_in, n_out) < tiles
    flips = flips and n_out * padded(n_in) <= PANEL * <Py_ssize_t>LANES
    if first > 0 and (n_out <= LANES or flips):
        return
    if like * n_in * n_out <= PLAIN:
        plain(X, n_in, 1, W, n_out, 1, b, Z, rows, n_in, n_out, relu)
    elif n == 1 and 1 < n_out <= LANES:
        single_vector(X, W, n_out, b, Z, n_in, n_out, relu)
    elif n_out == 1 and by_rows < tiles:        # W is its own transpose
        dots(X, n_in, W, n_in, b, Z, 1, rows, 1, n_in, relu)
    elif flips:
        forward_by_dots(X, W, b, Z, rows, n_in, n_out, relu)
    else:
        product(X, n_in, 1, W, n_out, 1, b, NULL, Z, n_out, 1, rows, n_in, n_out, relu, False,
                first, n_out if n_out <= LANES else end)


cdef inline bint packs_rows(Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """Whether packed weights are the rows of W^T, for `dots`, or the strips of `product`."""
    return by_dots(1, n_in, n_out) < by_tiles(1, n_in, n_out)


cdef Py_ssize_t pack_weights(
        const real *W, real *packed, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """packed := W, in the order in which `dense_forward_packed` reads it, unless packed is NULL.

    Returns the number of entries: vectors are filled up, and of a layer whose outputs fit into one
    vector both forms are kept, as the second is the better for a single sample.
    """
    cdef Py_ssize_t size = 0
    if packs_rows(n_in, n_out):
        if packed != NULL:
            transpose_weights(W, packed, n_in, n_out)
        size = n_out * padded(n_in)
        if n_out > LANES:
            return size
    if packed != NULL:
        pack(W, packed + size, n_in, n_out)
    return size + n_in * padded(n_out)


cdef void dense_forward_packed(
        const real *X, const real *packed, const real *b, real *Z,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu,
        Py_ssize_t rows, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    """Z = X W + b, then max(Z, 0) if relu, with packed weights W: as `dense_forward`."""
    cdef bint by_rows = packs_rows(n_in, n_out)
    if n == 1 and n_out <= LANES:
        if first == 0:
            single_vector(X, packed + n_out * padded(n_in) if by_rows else packed, LANES,
                          b, Z, n_in, n_out, relu)
    elif by_rows:
        if first == 0:
            dots(X, n_in, packed, padded(n_in), b, Z, n_out, rows, n_out, n_in, relu)
    else:
        product(X, n_in, 1, packed, 0, PACKED, b, NULL, Z, n_out, 1, rows, n_in, n_out, relu, False,
                first, end)


cdef void narrow_input_gradient(
        const real *W, const real *dZ, const real *mask, real *dX,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out) noexcept nogil:
    """As `input_gradient`, with the columns of W as rows of a panel: at most PANEL vectors."""
    cdef vec panel[PANEL]
    transpose_weights(W, <real *>panel, n_in, n_out)
    outer(dZ, n_out, 1, <const real *>panel, padded(n_in), mask, dX, n, n_in, n_out)


cdef void input_gradient(
        const real *W, const real *dZ, const real *mask, real *dX,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out,
        Py_ssize_t rows, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    """dX = dZ W^T, then 0 where mask <= 0, unless mask is NULL: some rows and columns of it.

    How depends on all n rows. Ways that are for small layers do all columns with the first.
    """
    cdef double by_rows = by_dots(n, n_out, n_in)
    cdef double tiles = by_tiles(n, n_out, n_in) + to_transpose(n_out, n_in)
    cdef double flipped = by_tiles(n_in, n_out, n) + to_transpose(n_out, n) + 3.0 * n * n_in
    if n_out <= MOST_OUTER or n < 4 and n_out < LANES:
        if first > 0:
            return
        end = n_in
    if n_out == 1:                          # W is its own transpose
        outer(dZ, 1, 1, W, n_in, mask, dX, rows, n_in, 1)
        return
    if (4 <= n and n_out <= MOST_OUTER and LANES <= n_in
            and n_out * padded(n_in) <= PANEL * <Py_ssize_t>LANES):
        narrow_input_gradient(W, dZ, mask, dX, rows, n_in, n_out)
        return
    if n_in == 1 and n_out <= MOST_OUTER:   # dX^T = W dZ^T, and dZ is read as narrow weights are
        narrow_layer(NULL, W, <real *>dZ, dX, rows, n_out)
    elif n == 1 and n_out <= MOST_OUTER:
        narrow_layer(NULL, dZ, <real *>W, dX, n_in, n_out)
    elif n < 4 and n_out < LANES:
        plain(dZ, n_out, 1, W, 1, n_out, NULL, dX, rows, n_out, n_in, False)
    elif by_rows <= min(tiles, flipped):
        dots(dZ, n_out, W + first * n_out, n_out, NULL, dX + first, n_in, rows, end - first, n_out,
             False)
    elif flipped < tiles:                   # dX^T = W dZ^T
        product(W + first * n_out, n_out, 1, dZ, 1, n_out, NULL, NULL, dX + first, 1, n_in,
                end - first, n_out, rows, False)
    else:
        product(dZ, n_out, 1, W, 1, n_out, NULL, mask, dX, n_in, 1, rows, n_out, n_in, False, False,
                first, end)
        return
    if mask != NULL and first == 0 and end == n_in:
        relu_backward(mask, dX, dX, rows * n_in)
    elif mask != NULL:
        mask_columns(mask, dX, rows, n_in, first, end)


cdef void weight_gradient(
        const real *X, const real *dZ, real *dW, Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out,
        Py_ssize_t first, Py_ssize_t rows, Py_ssize_t column, Py_ssize_t end,
        bint add) noexcept nogil:
    """dW = X^T dZ, or += if add: some rows of it, and of these the columns from `column` to `end`.

    dW is where the first of these rows begins. How it is computed depends on the whole; and where
    that has fewer than 6 samples or than LANES columns, only all columns can be asked for.
    """
    cdef double tiles = by_tiles(n_in, n, n_out)
    cdef double flipped = by_tiles(n_out, n, n_in)
    if n_out > 1:
        flipped += 10.0 * n_in * n_out      # to put entries where they belong, one by one
    if n * n_in * n_out <= PLAIN and not add:
        plain(X + first, 1, n_in, dZ, n_out, 1, NULL, dW, rows, n, n_out, False)
    elif n == 1 and n_out <= MOST_OUTER and not add:
        narrow_layer(X + first, dZ, dW, NULL, rows, n_out)
    elif 1 <= n <= 5 and (n_out >= LANES or n <= 2 and n_out > 1) and not add:
        outer(X + first, 1, n_in, dZ, n_out, NULL, dW, rows, n_out, n)
    elif flipped < tiles:                   # dW^T = dZ^T X
        product(dZ + column, 1, n_out, X + first, n_in, 1, NULL, NULL, dW + column, 1, n_out,
                end - column, n, rows, False, add)
    else:
        product(X + first, 1, n_in, dZ, n_out, 1, NULL, NULL, dW, n_out, 1,
                rows, n, n_out, False, add, column, end)


cdef bint dense_update(
        const real *X, const real *dZ, real *dX, real *dW, real *W, real *A, real *B, real *C,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu,
        Py_ssize_t first, Py_ssize_t rows, Py_ssize_t together, const Update *u) noexcept nogil:
    """dW and `update` of W with it, in some rows of W, a few of them `together`.

    They are still in a cache. A single sample's dX has an entry for each row of W, so it is
    computed along with these rows; and its dW goes into the update without being stored. The bits
    are those of one step after the other; returns what `update` does.
    """
    cdef Py_ssize_t end = first + rows, some, at
    cdef real *a = NULL
    cdef real *b = NULL
    cdef real *c = NULL
    cdef bint finite = True
    while first < end:
        some, at = min(end - first, together), first * n_out
        if A != NULL:
            a = A + at
        if B != NULL:
            b = B + at
        if C != NULL:
            c = C + at
        if n == 1:
            if dX != NULL:
                input_gradient(
                    W + at, dZ, X + first if relu else NULL, dX + first, 1, some, n_out,
                    1, 0, some)
            finite &= single_update(X + first, dZ, W + at, a, b, c, some, n_out, u)
        else:
            weight_gradient(X, dZ, dW, n, n_in, n_out, first, some, 0, n_out, False)
            finite &= update(dW, W + at, a, b, c, some * n_out, u)
        first += some
    return finite


cdef void dense_backward(
        const real *X, const real *W, const real *dZ, real *dX, real *dW, real *db,
        Py_ssize_t n, Py_ssize_t n_in, Py_ssize_t n_out, bint relu, bint add) noexcept nogil:
    """dX = dZ W^T, then 0 where X <= 0 if relu,   dW = X^T dZ,   db = sum of dZ's rows.

    If add, dW += and db +=.
    """
    if dX != NULL:
        input_gradient(W, dZ, X if relu else NULL, dX, n, n_in, n_out, n, 0, n_in)
    if dW != NULL:
        weight_gradient(X, dZ, dW, n, n_in, n_out, 0, n_in, 0, n_out, add)
    if db != NULL:
        sum_rows(dZ, db, n, n_out, add)
