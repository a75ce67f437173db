# Dropout: which entries are dropped is a function of a seed and of their number alone, so that
# nothing has to be kept for backward, and neither blocks nor threads make a difference.

cdef enum:
    STREAM = 16             # counters at a time, of which each gives 4 random words
    ROUNDS = 10


cdef inline void philox_round(
        unsigned *a, unsigned *b, unsigned *c, unsigned *d, unsigned first_key,
        unsigned second_key) noexcept nogil:
    """Each of a and c times a constant: the low half moves on, the high half is mixed in."""
    cdef uint64_t first = <uint64_t>0xD2511F53 * a[0], second = <uint64_t>0xCD9E8D57 * c[0]
    a[0], b[0] = <unsigned>(second >> 32) ^ b[0] ^ first_key, <unsigned>second
    c[0], d[0] = <unsigned>(first >> 32) ^ d[0] ^ second_key, <unsigned>first


cdef void random_words(uint64_t number, uint64_t seed, unsigned *words) noexcept nogil:
    """words := Philox4x32-10 of the STREAM counters from `number` * STREAM on.

    Word w of counter l becomes words[w * STREAM + l]. J. K. Salmon, M. A. Moraes, R. O. Dror,
    D. E. Shaw, Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    cdef unsigned first_key = <unsigned>seed, second_key = <unsigned>(seed >> 32), a, b, c, d
    cdef int i, r
    for i in range(STREAM):
        a = <unsigned>(number * STREAM + i)
        b = <unsigned>((number * STREAM + i) >> 32)
        c = d = 0
        for r in range(ROUNDS):         # unrolled, and done in all lanes at once
            philox_round(&a, &b, &c, &d, first_key + <unsigned>r * <unsigned>0x9E3779B9,
                         second_key + <unsigned>r * <unsigned>0xBB67AE85)
        words[i], words[STREAM + i] = a, b
        words[2 * STREAM + i], words[3 * STREAM + i] = c, d


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
