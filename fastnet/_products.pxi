# Matrix products, where most of a network's time goes:  C (m, n) := A (m, k) B (k, n) + bias.
#
# C is cut into strips a few vectors wide, a strip into tiles a few rows high. A tile stays in
# registers while p walks along the inner dimension:  c[i, :] += A[i, p] B[p, :]. A long inner
# dimension is cut into blocks of DEPTH, many rows into blocks of HEIGHT, so that what is read again
# soon is still in a cache. Every cut depends on shapes alone, so the order of every sum does too.
#
# Rows of B must be contiguous for that. Where they are not (dX needs W^T), a strip of B is copied
# into a panel first. A whole B may also be packed beforehand, for repeated use: blocks of DEPTH, in
# each the strips, in each the rows. Where C is too narrow to fill vectors, or has very few rows,
# `dots` does better: it multiplies rows with rows, along the inner dimension. The callers in
# _dense.pxi choose, again by shapes alone.

cdef enum:
    HEIGHT = 1024       # of a block of A
    AREA = 512          # of a block of C, for each row of B, where C is larger than LARGE
    LARGE = 262_144     # entries
    FAR = 131_072       # entries of B: more are copied strip by strip, if it pays, for TALL C
    TALL = 64           # rows; half as many where rows of B begin inside of a vector
    COPIED = 36         # times LANES rows of A are copied at a time
    GATHER = 128        # columns of C from which on a copy of A pays, if its rows lie apart
    LONG = 64           # terms of a sum that takes long enough to fetch the next tile of C
    MOST_OUTER = 8      # rows of B in `outer`
    PLAIN = 32          # multiplications up to which `plain` is quickest
    PACKED = -1         # instead of a distance between columns: B is packed


cdef inline void tile(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col, const real *B, Py_ssize_t b_row,
        const real *start, Py_ssize_t start_row, real *C, Py_ssize_t c_row,
        Py_ssize_t k, Py_ssize_t whole, Py_ssize_t last, bint relu,
        int rows, int vectors) noexcept nogil:
    """C[i, j] = start[i, j] + sum_p A[i, p] B[p, j],  then max(C, 0) if relu;  start NULL: 0.

    `rows` times `vectors` vectors of C, the last of which has `last` columns. A[i, p] stands at
    A[i * a_row + p * a_col]. In the first `whole` rows of B the last vector may be read as a whole.
    """
    cdef vec c[ROWS * WIDE]
    cdef vec b[WIDE]
    cdef const real *a[ROWS]
    cdef Py_ssize_t p
    cdef int i, j
    for i in range(rows):
        a[i] = A + i * a_row
        for j in range(vectors):
            if start == NULL:
                c[i * vectors + j] = broadcast(0)
            elif i > 0 and start_row == 0:
                c[i * vectors + j] = c[j]
            elif j < vectors - 1:
                c[i * vectors + j] = (<const vec_in_array *>(start + i * start_row + j * LANES))[0]
            else:
                c[i * vectors + j] = load_first(start + i * start_row + j * LANES, last)
    if k >= LONG:
        for i in range(rows):
            prefetch(C + (rows + i) * c_row)
            prefetch(C + (rows + i) * c_row + vectors * LANES - 1)
    for p in range(whole):
        for j in range(vectors):
            b[j] = (<const vec_in_array *>(B + p * b_row + j * LANES))[0]
        for i in range(rows):
            for j in range(vectors):
                c[i * vectors + j] = c[i * vectors + j] + a[i][p * a_col] * b[j]
    for p in range(whole, k):
        for j in range(vectors - 1):
            b[j] = (<const vec_in_array *>(B + p * b_row + j * LANES))[0]
        b[vectors - 1] = load_first(B + p * b_row + (vectors - 1) * LANES, last)
        for i in range(rows):
            for j in range(vectors):
                c[i * vectors + j] = c[i * vectors + j] + a[i][p * a_col] * b[j]
    for i in range(rows):
        for j in range(vectors):
            if relu:
                c[i * vectors + j] = vec_relu(c[i * vectors + j])
            if j < vectors - 1 or last == LANES:
                (<vec_in_array *>(C + i * c_row + j * LANES))[0] = c[i * vectors + j]
            else:
                store_first(C + i * c_row + j * LANES, c[i * vectors + j], last)


cdef inline void strip(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col, const real *B, Py_ssize_t b_row,
        const real *start, Py_ssize_t start_row, real *C, Py_ssize_t c_row,
        Py_ssize_t m, Py_ssize_t k, Py_ssize_t whole, Py_ssize_t last, bint relu,
        int vectors) noexcept nogil:
    """Tiles down the m rows of a strip: as many of ROWS as fit, then smaller ones.

    A WIDE strip has few rows; asking for `vectors <= VECTORS` leaves the others uncompiled.
    """
    while m >= ROWS and vectors <= VECTORS:
        tile(A, a_row, a_col, B, b_row, start, start_row, C, c_row,
             k, whole, last, relu, ROWS, vectors)
        A, start, C, m = A + ROWS * a_row, start + ROWS * start_row, C + ROWS * c_row, m - ROWS
    if m >= 6 and ROWS > 6 and vectors <= VECTORS:
        tile(A, a_row, a_col, B, b_row, start, start_row, C, c_row,
             k, whole, last, relu, 6, vectors)
        A, start, C, m = A + 6 * a_row, start + 6 * start_row, C + 6 * c_row, m - 6
    if m >= 4 and vectors <= VECTORS:
        tile(A, a_row, a_col, B, b_row, start, start_row, C, c_row,
             k, whole, last, relu, 4, vectors)
        A, start, C, m = A + 4 * a_row, start + 4 * start_row, C + 4 * c_row, m - 4
    if m == 3 and (vectors <= VECTORS or FEW >= 3):
        tile(A, a_row, a_col, B, b_row, start, start_row, C, c_row,
             k, whole, last, relu, 3, vectors)
    elif m == 2 and (vectors <= VECTORS or FEW >= 2):
        tile(A, a_row, a_col, B, b_row, start, start_row, C, c_row,
             k, whole, last, relu, 2, vectors)
    elif m == 1:
        tile(A, a_row, a_col, B, b_row, start, start_row, C, c_row,
             k, whole, last, relu, 1, vectors)


cdef inline Py_ssize_t share(Py_ssize_t whole, Py_ssize_t most) noexcept nogil:
    """The first part, where `whole` is cut evenly into as few parts (up to `most`) as will do."""
    cdef Py_ssize_t parts = max(<Py_ssize_t>1, (whole + most - 1) // most)
    return (whole + parts - 1) // parts


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    """n, rounded up to whole vectors."""
    return (n + LANES - 1) // LANES * LANES


cdef void product(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col,
        const real *B, Py_ssize_t b_row, Py_ssize_t b_col,
        const real *bias, const real *mask, real *C, Py_ssize_t c_row, Py_ssize_t c_col,
        Py_ssize_t m, Py_ssize_t k, Py_ssize_t n, bint relu, bint add=False,
        Py_ssize_t first=0, Py_ssize_t end=-1) noexcept nogil:
    """C (m, n) := A (m, k) B (k, n) + bias, then max(C, 0) if relu, then 0 where mask <= 0.

    Any strides, except that bias and relu need c_col 1, and a mask contiguous C, whose shape it
    has. Bias and mask may be NULL. If add, C += A B, without bias. Of C only the strips that begin
    in the columns from `first` to before `end`; or if that is -1, all.
    """
    cdef vec panel[DEPTH * VECTORS]
    cdef real *copied = NULL
    cdef Py_ssize_t highest = HEIGHT, i = 0, p, height, depth, row, col
    cdef const real *a
    cdef bint packs = (b_col > 1
                       or b_col == 1 and k * n > FAR and m >= (TALL // 2 if n % LANES else TALL))
    cdef bint whole = end < 0 or first == 0 and end >= n
    first = 0 if whole else next_strip(n, first)
    end = n if whole else next_strip(n, end)
    if packs and k <= DEPTH and k * padded(n) <= DEPTH * VECTORS * LANES:
        pack_block(B, b_row, b_col, k, n, <real *>panel, k, n)
        B, b_col, packs = <const real *>panel, PACKED, False
    if m * n > LARGE and not packs:     # write C row by row, as all of B is at hand for each
        highest = min(highest, max(AREA * min(k, <Py_ssize_t>DEPTH) // n, <Py_ssize_t>ROWS))
    # With MANY registers copies of A paid for up to twice as many columns only.
    if a_row == 1 and a_col > 1 and GATHER <= n and (n <= 2 * GATHER or not MANY):
        highest = min(highest, <Py_ssize_t>COPIED * LANES)
        copied = <real *>malloc(
            min(m, highest + ROWS) * padded(share(k, DEPTH)) * sizeof(real))    # NULL will do, too
    while i < m:
        height = min(m - i, (share(m - i, highest) + ROWS - 1) // ROWS * ROWS)
        p = 0
        while True:
            depth = share(k - p, DEPTH)
            a, row, col = A + i * a_row + p * a_col, a_row, a_col
            if copied != NULL:
                pack_strip(a, row, col, (m - i - 1) * row + (k - p - 1) * col + 1,
                           copied, padded(depth), height, depth)
                a, row, col = copied, padded(depth), 1
            block(a, row, col, B + p * (padded(n) if b_col == PACKED else b_row), b_row, b_col,
                  <real *>panel if packs else NULL,
                  bias, C + i * c_row, c_row, c_col, height, depth, n, first, end,
                  add or p > 0, p + depth == k, relu and p + depth == k)
            p += depth
            if p >= k:
                break
        if mask != NULL and whole:      # while the block is in a cache
            relu_backward(mask + i * n, C + i * n, C + i * n, height * n)
        elif mask != NULL:
            mask_columns(mask + i * n, C + i * n, height, n, first, end)
        i += height
    free(copied)


cdef void mask_columns(
        const real *mask, real *C, Py_ssize_t m, Py_ssize_t n,
        Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    """C[i, j] := 0 where mask[i, j] <= 0   in the columns from `first` to before `end`."""
    cdef Py_ssize_t i, at
    for i in range(m):
        at = i * n + first
        relu_backward(mask + at, C + at, C + at, end - first)


cdef inline int strip_vectors(Py_ssize_t n) noexcept nogil:
    """Vectors of the first strip, where n columns are left: few strips, about equally wide."""
    return <int>share((n + LANES - 1) // LANES, VECTORS)


cdef inline Py_ssize_t next_strip(Py_ssize_t n, Py_ssize_t column) noexcept nogil:
    """Where the first strip of n columns begins that does not begin before a column."""
    cdef Py_ssize_t j = 0
    while j < min(column, n):
        j += strip_vectors(n - j) * <Py_ssize_t>LANES
    return min(j, n)


cdef void pack(const real *B, real *packed, Py_ssize_t k, Py_ssize_t n) noexcept nogil:
    """packed := B (k, n), contiguous, in the order in which `product` reads it: k padded(n)."""
    cdef Py_ssize_t p = 0, depth
    while p < k:
        depth = share(k - p, DEPTH)
        pack_block(B + p * n, n, 1, k - p, n, packed + p * padded(n), depth, n)
        p += depth


cdef void pack_block(
        const real *B, Py_ssize_t b_row, Py_ssize_t b_col, Py_ssize_t k, Py_ssize_t n,
        real *packed, Py_ssize_t depth, Py_ssize_t width) noexcept nogil:
    """packed := the first depth rows and width columns of B (k, n), strip by strip."""
    cdef Py_ssize_t j = 0, row
    while j < width:
        row = strip_vectors(width - j) * <Py_ssize_t>LANES
        pack_strip(B + j * b_col, b_row, b_col, (n - j - 1) * b_col + (k - 1) * b_row + 1,
                   packed + j * depth, row, depth, min(width - j, row))
        j += row


cdef void block(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col,
        const real *B, Py_ssize_t b_row, Py_ssize_t b_col, real *panel,
        const real *bias, real *C, Py_ssize_t c_row, Py_ssize_t c_col,
        Py_ssize_t m, Py_ssize_t k, Py_ssize_t n, Py_ssize_t first, Py_ssize_t end,
        bint add, bint ends, bint relu) noexcept nogil:
    """One block of `product`: C := A B + bias, or C += A B if add. `ends`: B's memory ends here.

    Strips of B are copied to the panel, unless it is NULL. Of C the columns from `first` to before
    `end`, where strips begin.
    """
    cdef vec held[ROWS * VECTORS]
    cdef Py_ssize_t j = first, i, width, last, whole, row, rows, start_row
    cdef int vectors
    cdef const real *b
    cdef const real *start
    while j < end:
        vectors = <int>min(<Py_ssize_t>strip_vectors(n - j), (end - j + LANES - 1) // LANES)
        if m <= FEW and end - j >= WIDE * LANES and b_col == 1 and panel == NULL:
            vectors = WIDE
        width = min(n - j, vectors * <Py_ssize_t>LANES)
        last = width - (vectors - 1) * <Py_ssize_t>LANES
        b, row, whole = B + j, b_row, k
        if b_col == PACKED:
            b, row = B + j * k, vectors * LANES
        elif panel != NULL:
            pack_strip(B + j * b_col, b_row, b_col, (n - j - 1) * b_col + (k - 1) * b_row + 1,
                       panel, vectors * LANES, k, width)
            b, row = panel, vectors * LANES
        elif ends and j + vectors * LANES > n:
            # The last vector of the last rows would reach beyond the end of B.
            whole = max(<Py_ssize_t>0, k - (j + vectors * LANES - n + b_row - 1) // b_row)
        if c_col == 1:
            if add:
                start, start_row = C + j, c_row
            else:
                start, start_row = bias + j if bias != NULL else NULL, 0
            run_strip(A, a_row, a_col, b, row, start, start_row, C + j, c_row,
                      m, k, whole, last, relu, vectors)
        else:
            i = 0
            while i < m:
                rows = min(m - i, <Py_ssize_t>ROWS)
                run_strip(A + i * a_row, a_row, a_col, b, row, NULL, 0,
                          <real *>held, vectors * LANES, rows, k, whole, last, False, vectors)
                scatter(<const real *>held, vectors * LANES,
                        C + i * c_row + j * c_col, c_row, c_col, rows, width, add)
                i += rows
        j += width


cdef void run_strip(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col, const real *B, Py_ssize_t b_row,
        const real *start, Py_ssize_t start_row, real *C, Py_ssize_t c_row,
        Py_ssize_t m, Py_ssize_t k, Py_ssize_t whole, Py_ssize_t last, bint relu,
        int vectors) noexcept nogil:
    """`strip` with its width as a constant."""
    if vectors == 1:
        strip(A, a_row, a_col, B, b_row, start, start_row, C, c_row, m, k, whole, last, relu, 1)
    elif vectors == 2:
        strip(A, a_row, a_col, B, b_row, start, start_row, C, c_row, m, k, whole, last, relu, 2)
    elif vectors == 3:
        strip(A, a_row, a_col, B, b_row, start, start_row, C, c_row, m, k, whole, last, relu, 3)
    else:
        strip(A, a_row, a_col, B, b_row, start, start_row, C, c_row, m, k, whole, last, relu, WIDE)


cdef void scatter(
        const real *held, Py_ssize_t held_row, real *C, Py_ssize_t c_row, Py_ssize_t c_col,
        Py_ssize_t rows, Py_ssize_t width, bint add) noexcept nogil:
    """C[i, j] := held[i, j], or C[i, j] += held[i, j] if add."""
    cdef Py_ssize_t i, j
    for j in range(width):
        for i in range(rows):
            if add:
                C[i * c_row + j * c_col] += held[i * held_row + j]
            else:
                C[i * c_row + j * c_col] = held[i * held_row + j]


cdef void pack_strip(
        const real *B, Py_ssize_t b_row, Py_ssize_t b_col, Py_ssize_t left,
        real *panel, Py_ssize_t panel_row, Py_ssize_t k, Py_ssize_t width) noexcept nogil:
    """panel[p, j] := B[p, j]   for k times width entries; a panel's rows are whole vectors.

    Either the rows of B are contiguous or the columns. There are `left` entries from B on. Of
    contiguous rows the next columns are fetched meanwhile, as they are likely to come next.
    """
    cdef vec columns[LANES]
    cdef Py_ssize_t p, q, j, at
    if b_col == 1:
        for p in range(k):
            prefetch(B + p * b_row + width)
            prefetch(B + p * b_row + 2 * width - 1)
            for j from 0 <= j < width by LANES:
                at = p * b_row + j
                (<vec_in_array *>(panel + p * panel_row + j))[0] = load(B + at, left - at)
        return
    for j from 0 <= j < width by LANES:
        for p from 0 <= p < k by LANES:
            at = j * b_col + p
            load_transposed(B + at, b_col, width - j, k - p, left - at, columns)
            for q in range(min(k - p, <Py_ssize_t>LANES)):
                (<vec_in_array *>(panel + (p + q) * panel_row + j))[0] = columns[q]


cdef inline vec sums_of_lanes(vec *v) noexcept nogil:
    """Lane l is the sum of v[l], for LANES vectors, which are used up.

    Zipped halves added up are half as many vectors, with the lanes of two in one; and so on.
    """
    cdef int i, half = LANES // 2
    while half >= 1:
        for i in range(half):
            v[i] = zip_low(v[i], v[i + half]) + zip_high(v[i], v[i + half])
        half = half // 2
    return v[0]


cdef inline void dots_tile(
        const real *A, Py_ssize_t a_row, const real *B, Py_ssize_t b_row,
        vec bias, real *C, Py_ssize_t c_row,
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, bint relu, int rows, int cols) noexcept nogil:
    """C[i, j] = bias[j] + sum_p A[i, p] B[j, p],  then max(C, 0) if relu.

    rows * cols = LANES entries of C, of which m times n (or all, if these are more) are wanted;
    the others are computed from the last row again, and left out. The bias has their order.
    """
    cdef vec c[LANES]
    cdef vec b[LANES]
    cdef vec x
    cdef const real *a_rows[LANES]
    cdef const real *b_rows[LANES]
    cdef Py_ssize_t p = 0
    cdef int i, j
    for i in range(rows):
        a_rows[i] = A + min(<Py_ssize_t>i, m - 1) * a_row
    for j in range(cols):
        b_rows[j] = B + min(<Py_ssize_t>j, n - 1) * b_row
    for i in range(LANES):
        c[i] = broadcast(0)
    while p + LANES <= k:
        for j in range(cols):
            b[j] = (<const vec_in_array *>(b_rows[j] + p))[0]
            if rows > 1:
                b[j] = in_register(b[j])
        for i in range(rows):
            x = in_register((<const vec_in_array *>(a_rows[i] + p))[0])
            for j in range(cols):
                c[i * cols + j] = c[i * cols + j] + x * b[j]
        p += LANES
    if p < k:
        for j in range(cols):
            b[j] = load_first(b_rows[j] + p, k - p)
        for i in range(rows):
            x = load_first(a_rows[i] + p, k - p)
            for j in range(cols):
                c[i * cols + j] = c[i * cols + j] + x * b[j]
    x = sums_of_lanes(c) + bias
    if relu:
        x = vec_relu(x)
    if rows == 1:
        store(C, x, n)
    elif m >= rows and n >= cols and c_row == cols:
        store(C, x, LANES)
    elif n >= cols:
        for i in range(rows):
            if i < m:
                memcpy(C + i * c_row, <const real *>&x + i * cols, cols * sizeof(real))
    else:
        for i in range(min(m, <Py_ssize_t>rows)):
            memcpy(C + i * c_row, <const real *>&x + i * cols, n * sizeof(real))


cdef inline void dots_columns(
        const real *A, Py_ssize_t a_row, const real *B, Py_ssize_t b_row,
        const real *bias, real *C, Py_ssize_t c_row,
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, bint relu, int cols) noexcept nogil:
    """`dots` for the first `cols` of the n columns."""
    cdef vec biases = broadcast(0)
    cdef Py_ssize_t i = 0
    cdef int j
    if bias != NULL:
        for j in range(LANES):
            (<real *>&biases)[j] = bias[min(<Py_ssize_t>(j % cols), n - 1)]
    while i < m:
        dots_tile(A + i * a_row, a_row, B, b_row, biases, C + i * c_row, c_row,
                  m - i, n, k, relu, LANES // cols, cols)
        i += LANES // cols


cdef void dots(
        const real *A, Py_ssize_t a_row, const real *B, Py_ssize_t b_row,
        const real *bias, real *C, Py_ssize_t c_row,
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, bint relu) noexcept nogil:
    """C (m, n) := A (m, k) B^T + bias, then max(C, 0) if relu, with B (n, k); bias or NULL.

    A tile has LANES entries: the more columns, the fewer the rows.
    """
    cdef Py_ssize_t i = 0, j, rows
    cdef const real *a
    cdef const real *b
    cdef const real *start
    cdef real *c
    cdef int cols
    while i < m:
        rows = min(m - i, <Py_ssize_t>LANES)
        j = 0
        while j < n:
            if rows <= 2:
                cols = LANES // <int>rows
            else:
                cols = 4 if n - j >= 4 and LANES >= 4 else 2 if n - j >= 2 else 1
            a, b, c = A + i * a_row, B + j * b_row, C + i * c_row + j
            start = bias + j if bias != NULL else NULL
            if cols == 1:
                dots_columns(a, a_row, b, b_row, start, c, c_row, rows, n - j, k, relu, 1)
            elif cols == 2:
                dots_columns(a, a_row, b, b_row, start, c, c_row, rows, n - j, k, relu, 2)
            elif cols == 4 and LANES >= 4:
                dots_columns(a, a_row, b, b_row, start, c, c_row, rows, n - j, k, relu, 4)
            elif cols == 8 and LANES >= 8:
                dots_columns(a, a_row, b, b_row, start, c, c_row, rows, n - j, k, relu, 8)
            else:
                dots_columns(a, a_row, b, b_row, start, c, c_row, rows, n - j, k, relu, LANES)
            j += cols
        i += rows


cdef inline void narrow_of(
        const real *x, const real *z, real *W, real *y, Py_ssize_t n, int k) noexcept nogil:
    """`narrow_layer` for a constant k, for which gcc finds vectors."""
    cdef real z_values[MOST_OUTER]
    cdef real total
    cdef Py_ssize_t i
    cdef int p
    for p in range(k):
        z_values[p] = z[p]
    if y == NULL:
        for i in range(n):
            for p in range(k):
                W[i * k + p] = x[i] * z_values[p]
    else:
        for i in range(n):
            total = 0
            for p in range(k):
                total += z_values[p] * W[i * k + p]
            y[i] = total


cdef void narrow_layer(
        const real *x, const real *z, real *W, real *y, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """W (n, k) := x^T z,  or y := z W^T  if y is not NULL,   for k from 1 to MOST_OUTER."""
    if k == 1:
        narrow_of(x, z, W, y, n, 1)
    elif k == 2:
        narrow_of(x, z, W, y, n, 2)
    elif k == 3:
        narrow_of(x, z, W, y, n, 3)
    elif k == 4:
        narrow_of(x, z, W, y, n, 4)
    elif k == 5:
        narrow_of(x, z, W, y, n, 5)
    elif k == 6:
        narrow_of(x, z, W, y, n, 6)
    elif k == 7:
        narrow_of(x, z, W, y, n, 7)
    else:
        narrow_of(x, z, W, y, n, 8)


cdef void single_vector(
        const real *A, const real *B, Py_ssize_t b_row, const real *bias, real *C,
        Py_ssize_t k, Py_ssize_t n, bint relu) noexcept nogil:
    """`product` for one row of A and up to LANES columns.

    In four sums: each term of a single one would have to wait for the last.
    """
    cdef vec c[4]
    cdef Py_ssize_t p = 0, left = (k - 1) * b_row + n       # entries of B
    cdef int i
    for i in range(4):
        c[i] = broadcast(0)
    while (p + 3) * b_row + LANES <= left:
        for i in range(4):
            c[i] = c[i] + A[p + i] * (<const vec_in_array *>(B + (p + i) * b_row))[0]
        p += 4
    while p < k:
        c[0] = c[0] + A[p] * load_first(B + p * b_row, n)
        p += 1
    c[0] = (c[0] + c[1]) + (c[2] + c[3])
    if bias != NULL:
        c[0] = c[0] + load_first(bias, n)
    store(C, vec_relu(c[0]) if relu else c[0], n)


cdef void plain(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col,
        const real *B, Py_ssize_t b_row, Py_ssize_t b_col, const real *bias, real *C,
        Py_ssize_t m, Py_ssize_t k, Py_ssize_t n, bint relu) noexcept nogil:
    """`product` into contiguous C, number by number, where vectors would hardly be filled."""
    cdef real total
    cdef Py_ssize_t i, j, p
    for i in range(m):
        for j in range(n):
            total = bias[j] if bias != NULL else 0
            for p in range(k):
                total += A[i * a_row + p * a_col] * B[p * b_row + j * b_col]
            C[i * n + j] = 0 if relu and total <= 0 else total


cdef inline void outer_vector(
        const vec *a, const real *B, Py_ssize_t b_row, const real *mask, real *C,
        Py_ssize_t left, int k) noexcept nogil:
    """A vector of `outer`, of which `left` entries or all are wanted."""
    cdef vec c = a[0] * load(B, left)
    cdef int p
    for p in range(1, k):
        c = c + a[p] * load(B + p * b_row, left)
    if mask != NULL:
        c = vec_relu_backward(load(mask, left), c)
    store(C, c, left)


cdef inline void outer_tile(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col, const real *B, Py_ssize_t b_row,
        const real *mask, real *C, Py_ssize_t m, Py_ssize_t n, int k) noexcept nogil:
    """`outer` for a constant k."""
    cdef vec a[MOST_OUTER]
    cdef const real *x = mask
    cdef Py_ssize_t i, j
    cdef int p
    for i in range(m):
        for p in range(k):
            a[p] = broadcast(A[i * a_row + p * a_col])
        if mask != NULL:
            x = mask + i * n
        j = 0
        while j + LANES <= n:
            outer_vector(a, B + j, b_row, x + j if mask != NULL else NULL, C + i * n + j, LANES, k)
            j += LANES
        if j < n:
            outer_vector(a, B + j, b_row, x + j if mask != NULL else NULL, C + i * n + j, n - j, k)


cdef void outer(
        const real *A, Py_ssize_t a_row, Py_ssize_t a_col, const real *B, Py_ssize_t b_row,
        const real *mask, real *C, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """C (m, n) := A (m, k) B (k, n), then 0 where mask <= 0,   for k from 1 to MOST_OUTER.

    Row by row: to write C takes the most time, and goes best in the order of memory.
    """
    if k == 1:
        outer_tile(A, a_row, a_col, B, b_row, mask, C, m, n, 1)
    elif k == 2:
        outer_tile(A, a_row, a_col, B, b_row, mask, C, m, n, 2)
    elif k == 3:
        outer_tile(A, a_row, a_col, B, b_row, mask, C, m, n, 3)
    elif k == 4:
        outer_tile(A, a_row, a_col, B, b_row, mask, C, m, n, 4)
    elif k == 5:
        outer_tile(A, a_row, a_col, B, b_row, mask, C, m, n, 5)
    elif k == 6:
        outer_tile(A, a_row, a_col, B, b_row, mask, C, m, n, 6)
    elif k == 7:
        outer_tile(A, a_row, a_col, B, b_row, mask, C, m, n, 7)
    else:
        outer_tile(A, a_row, a_col, B, b_row, mask, C, m, n, 8)
