# Vectors of LANES reals: what every other part of the kernels says about them.
#
# A comparison has all bits set in the lanes where it holds, and none elsewhere; `<lanes>v` are the
# bits of v, so `choose` and the like are bitwise. To Cython a vec is a number and a comparison a
# truth value: comparisons are cast where they stand, never kept in variables.


cdef inline vec choose(lanes mask, vec a, vec b) noexcept nogil:
    """a where the mask is set, b elsewhere."""
    return <vec>((mask & <lanes>a) | (~mask & <lanes>b))


cdef inline dvec choose_doubles(dlanes mask, dvec a, dvec b) noexcept nogil:
    """As `choose`."""
    return <dvec>((mask & <dlanes>a) | (~mask & <dlanes>b))


cdef inline vec vec_relu(vec v) noexcept nogil:
    """0 where v <= 0, v elsewhere; NaN stays NaN."""
    return <vec>(<lanes>v & ~<lanes>(v <= broadcast(0)))


cdef inline vec vec_relu_backward(vec x, vec dy) noexcept nogil:
    """0 where x <= 0, dy elsewhere, where x is NaN too."""
    return <vec>(<lanes>dy & ~<lanes>(x <= broadcast(0)))


cdef inline vec within(vec x, real limit) noexcept nogil:
    """x, but no farther from 0 than the limit; NaN stays NaN."""
    return smaller(broadcast(limit), larger(broadcast(-limit), x))


cdef inline vec magnitude(vec x) noexcept nogil:
    """|x|."""
    return <vec>(<lanes>x & ~<lanes>broadcast(<real>-0.0))


cdef inline vec with_sign_of(vec x, vec y) noexcept nogil:
    """|y| with the sign of x."""
    return choose(<lanes>broadcast(<real>-0.0), x, y)


cdef inline vec upper_half(vec x) noexcept nogil:
    """x without the lower half of its digits, so that its square is exact."""
    return <vec>(<lanes>x & ~((<bits>1 << ((DIGITS + 2) // 2)) - 1))


cdef inline dvec where(dvec t, dvec v) noexcept nogil:
    """v where t is not 0, else 0."""
    return <dvec>(<dlanes>v & <dlanes>(t != 0.0))


cdef inline vec load(const real *p, Py_ssize_t n) noexcept nogil:
    """The first n lanes at p, or as many as there are if n is larger; 0 in the others."""
    return (<const vec_in_array *>p)[0] if n >= LANES else load_first(p, n)


cdef inline void store(real *p, vec v, Py_ssize_t n) noexcept nogil:
    """The first n lanes to p, or as many as there are if n is larger."""
    if n >= LANES:
        (<vec_in_array *>p)[0] = v
    else:
        store_first(p, v, n)


cdef inline double sum_of(const dvec *totals) noexcept nogil:
    """Sum of the lanes of PARTS vectors, one after the other."""
    cdef double total = 0
    cdef int i
    for i in range(LANES):
        total += (<const double *>totals)[i]
    return total


cdef inline void zip_transpose(vec *rows) noexcept nogil:
    """Lane i of rows[p] := lane p of rows[i], for LANES vectors.

    To zip the first half of the rows with the second, log2(LANES) times over, is to transpose.
    """
    cdef vec zipped[LANES]
    cdef int i, step = 1
    while step < LANES:
        for i in range(LANES // 2):
            zipped[2 * i] = zip_low(rows[i], rows[i + LANES // 2])
            zipped[2 * i + 1] = zip_high(rows[i], rows[i + LANES // 2])
        for i in range(LANES):
            rows[i] = zipped[i]
        step *= 2


cdef inline void load_transposed(
        const real *X, Py_ssize_t x_row, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t left,
        vec *columns) noexcept nogil:
    """columns[p] := X[:, p]   for LANES rows and columns, or fewer; the last row stands for more.

    There are `left` entries from X on: as long as these reach, whole vectors are loaded.
    """
    cdef Py_ssize_t at
    cdef int i
    for i in range(LANES):
        at = min(<Py_ssize_t>i, rows - 1) * x_row
        if at + LANES <= left:
            columns[i] = (<const vec_in_array *>(X + at))[0]
        else:
            columns[i] = load(X + at, cols)
    zip_transpose(columns)
