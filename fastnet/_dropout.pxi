# Dropout: which entries are dropped is a function of a seed and of their number alone, so that
# nothing has to be kept for backward, and neither blocks nor threads make a difference.

cdef enum:
    STREAM = 16             # counters at a time, of which each gives 4 random words
    ROUNDS = 10


cdef void random_words(uint64_t number, uint64_t seed, unsigned *words) noexcept nogil:
    """words := Philox4x32-10 of the STREAM counters from `number` * STREAM on.

    Word w of counter l becomes words[w * STREAM + l]. J. K. Salmon, M. A. Moraes, R. O. Dror,
    D. E. Shaw, Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    cdef unsigned *a = words
    cdef unsigned *b = words + STREAM
    cdef unsigned *c = words + 2 * STREAM
    cdef unsigned *d = words + 3 * STREAM
    cdef unsigned first_key = <unsigned>seed, second_key = <unsigned>(seed >> 32)
    cdef uint64_t first, second
    cdef int r, i
    for i in range(STREAM):
        a[i] = <unsigned>(number * STREAM + i)
        b[i] = <unsigned>((number * STREAM + i) >> 32)
        c[i] = d[i] = 0
    for r in range(ROUNDS):
        for i in range(STREAM):
            first = <uint64_t>0xD2511F53 * a[i]
            second = <uint64_t>0xCD9E8D57 * c[i]
            a[i] = <unsigned>(second >> 32) ^ b[i] ^ first_key
            c[i] = <unsigned>(first >> 32) ^ d[i] ^ second_key
            b[i] = <unsigned>second
            d[i] = <unsigned>first
        first_key = first_key + <unsigned>0x9E3779B9
        second_key = second_key + <unsigned>0xBB67AE85


cdef void dropout(
        const real *X, real *Y, Py_ssize_t size, double p, uint64_t seed,
        uint64_t first) noexcept nogil:
    """Y = 0 where entry first + i is dropped, of which the share is p, else X / (1 - p).

    Backward: dX from dY in the same way.
    """
    cdef unsigned words[4 * STREAM]
    cdef unsigned limit = <unsigned>(p * 4294967296.0)
    cdef real factor = <real>(1 / (1 - p))
    cdef uint64_t number = first // (4 * STREAM)
    cdef Py_ssize_t i = 0, j, some, skip = first % (4 * STREAM)
    while i < size:
        random_words(number, seed, words)
        some = min(size - i, 4 * STREAM - skip)
        for j in range(some):
            Y[i + j] = 0 if words[skip + j] < limit else X[i + j] * factor
        i, skip, number = i + some, 0, number + 1
