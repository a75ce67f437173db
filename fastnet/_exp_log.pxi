# exp and log, lane by lane and without a branch.
#
# Both split off a power of 2 by way of the bits of IEEE 754 numbers, and leave what remains to a
# short series. exp is computed in `real`, log in double. The method is that of W. J. Cody and
# W. Waite, Software Manual for the Elementary Functions (1980), chapters 5 and 6.


cdef inline vec reduced(vec x, vec *k) noexcept nogil:
    """r = x - k log 2, with the nearest whole k.

    log 2 is split in two, of which the first has so few digits that its product with k is exact.
    NaN stays NaN: no comparison with it holds.
    """
    cdef bint short = sizeof(real) == sizeof(float)
    cdef real high = 0.693359375 if short else 6.93147180369123816490e-01
    cdef real low = -2.12194440e-4 if short else 1.90821492927058770002e-10
    cdef real whole = <real>(<int64_t>3 << (DIGITS - 1))    # adding it rounds to whole numbers
    x = within(x, <real>(1.386 * BIAS))                     # beyond it, 0 and Inf are certain
    k[0] = (x * <real>1.4426950408889634 + whole) - whole
    return (x - k[0] * high) - k[0] * low


cdef inline vec exp_series(vec r, int first) noexcept nogil:
    """Sum of r^(i - first) / i! from i = first, as many terms as |r| <= log(2) / 2 needs."""
    cdef bint short = sizeof(real) == sizeof(float)
    cdef int i, terms = 7 if short else 13
    cdef double factorial = 5040 if short else 6227020800
    cdef vec p = broadcast(<real>(1 / factorial))
    for i in range(terms, first, -1):
        factorial = factorial / i
        p = p * r + <real>(1 / factorial)
    return p


cdef inline vec vec_exp(vec x) noexcept nogil:
    """exp(x) = 2^k exp(r)."""
    cdef vec k
    cdef vec r = reduced(x, &k)
    return times_power_of_2(exp_series(r, 0), k)


cdef inline vec vec_exp_of_sum(vec x, vec small) noexcept nogil:
    """exp(x + small), for what is too small to be added to x."""
    cdef vec k
    cdef vec r = reduced(x, &k)
    return times_power_of_2(exp_series(r + small, 0), k)


cdef inline vec vec_expm1(vec x) noexcept nogil:
    """exp(x) - 1 = 2^k (exp(r) - 1) + (2^k - 1)   for x <= 0, exact to the last bits near 0 too."""
    cdef vec k
    cdef vec r = reduced(x, &k)
    cdef vec power = times_power_of_2(broadcast(1), k)
    return exp_series(r, 1) * r * power + (power - 1.0)


cdef inline dvec double_log(dvec x) noexcept nogil:
    """log(x) = k log 2 + log(m)   with x = 2^k m and m from sqrt(1/2) to sqrt(2).

    log(m) = 2 (s + s^3/3 + s^5/5 + ...)   with s = (m - 1) / (m + 1).
    log(0) is -Inf, log of less NaN; Inf and NaN stay.
    """
    cdef bits64 root_half = 0x3fe6a09e667f3bcd              # the bits of sqrt(1/2)
    cdef dlanes raised = (<dlanes>x + (<bits64>1024 << 52) - root_half) >> 52      # k + 1024
    cdef dvec k = <dvec>(raised | <bits64>0x4330000000000000) - <double>(2.0 ** 52 + 1024)
    cdef dvec m = <dvec>(<dlanes>x - ((raised - <bits64>1024) << 52))
    cdef dvec s = (m - 1.0) / (m + 1.0)
    cdef dvec p = broadcast_double(2.0 / 21)
    cdef dvec limit = choose_doubles(<dlanes>(x == 0.0), broadcast_double(-INFINITY),
                                     choose_doubles(<dlanes>(x < 0.0), broadcast_double(NAN), x))
    cdef int i
    for i in range(9, -1, -1):
        p = p * (s * s) + 2.0 / (2 * i + 1)
    return choose_doubles(
        <dlanes>(x > 0.0) & <dlanes>(x < INFINITY),
        k * 6.93147180369123816490e-01 + (s * p + k * 1.90821492927058770002e-10), limit)


cdef inline vec vec_log(vec x) noexcept nogil:
    """log(x), lane by lane."""
    cdef vec result = broadcast(0)
    cdef int i
    for i in range(PARTS):
        narrow(double_log(widen(x, i)), &result, i)
    return result
