# Activations, entry by entry: y = f(x), and dx = f'(x) dy.
#
# Each stands in two places: a branch of `activate` with its formula, and one of `derivative` with
# its derivative; then in the list of _table.pxd. The loops below call both with a constant kind, so
# that no branch is left in them. NaN is passed on. Where one factor could be infinite and another
# one 0, x is kept within bounds beyond which the result no longer changes.

cdef enum:
    ERFC_TERMS = 26         # for double; the first ERFC_SHORT are enough for float
    ERFC_SHORT = 12

# Beyond it Phi(-x) is below the smallest normal number.
cdef real PHI_LIMIT = 13.5 if sizeof(real) == sizeof(float) else 38.4
# Up to here Phi(x) is 1 / 2, to the last bit, while y may be too small to be a number.
cdef real TINY = 1e-30 if sizeof(real) == sizeof(float) else 1e-290
# e^-2u does not overflow down to here, and beyond it f' is 0 but for 30 digits.
cdef real TANH_LIMIT = 9.5 if sizeof(real) == sizeof(float) else 20.5

# erfc(z) exp(z^2) (1 + 2 z) for z >= 0 is a smooth function of t = (z - 3) / (z + 3), from -1 to 1
# (M. M. Shepherd and J. G. Laframboise, Math. Comp. 36, 1981). These are its coefficients in
# Chebyshev polynomials of t; they fall so fast that powers of t serve as well, and are quicker.
cdef double CHEBYSHEV[ERFC_TERMS]
CHEBYSHEV[:] = [
    1.1775625741965600463, 5.3539045396156767694e-3, -9.3775503422842090522e-2,
    5.4366525557443220495e-2, -1.8976596707845207386e-2, 4.4534260614627115695e-3,
    -6.3355317105531469398e-4, 1.7661719523171591851e-5, 1.2841532864056670734e-5,
    -2.0072285659059914438e-6, -1.8075227904148371024e-7, 7.5498283438250928278e-8,
    1.8856685238386027905e-9, -2.6995190497983639975e-9, -1.4600791199391049408e-11,
    1.0361607445969489676e-10, 1.4757159766234730087e-12, -4.2773400643969108248e-12,
    -2.0792249285979899778e-13, 1.8134502003176962422e-13, 1.9734255745447388335e-14,
    -7.2879437375926731568e-15, -1.5169878690228115682e-15, 2.3514112258781403525e-16,
    1.0006111691821667611e-16, 0.0]
cdef real ERFC[ERFC_TERMS]      # those of 1, t, t^2 ...


cdef void take_powers(int terms) noexcept nogil:
    """ERFC from the first terms of CHEBYSHEV."""
    cdef double before[ERFC_TERMS]
    cdef double last[ERFC_TERMS]
    cdef double following[ERFC_TERMS]
    cdef double total[ERFC_TERMS]
    cdef int i, k
    for i in range(ERFC_TERMS):
        before[i], last[i], total[i] = i == 0, i == 1, 0
    for k in range(terms):              # T0 = 1,  T1 = t,  T(k+1) = 2 t T(k) - T(k-1)
        for i in range(terms):
            total[i] += CHEBYSHEV[k] * before[i]
            following[i] = (2 * last[i - 1] if i > 0 else 0) - before[i]
        for i in range(terms):
            before[i], last[i] = last[i], following[i]
    for i in range(ERFC_TERMS):
        ERFC[i] = total[i]


take_powers(ERFC_SHORT if sizeof(real) == sizeof(float) else ERFC_TERMS)


cdef inline vec sigmoid(vec x) noexcept nogil:
    return broadcast(1) / (vec_exp(-x) + broadcast(1))


cdef inline vec normal_density(vec x) noexcept nogil:
    """exp(-x^2 / 2), to the last bits: x^2 = h^2 + (x - h) (x + h), where h^2 has no rest."""
    cdef vec h = upper_half(x)
    return vec_exp_of_sum(h * h * <real>-0.5, (x - h) * (x + h) * <real>-0.5)


cdef inline vec normal_share(vec x, vec density) noexcept nogil:
    """Phi(x) = erfc(-x / sqrt 2) / 2, of its exp(-x^2 / 2)."""
    cdef vec z = magnitude(x) * <real>0.70710678118654752440
    cdef vec t = (z - broadcast(3)) / (z + broadcast(3)), square = t * t, odd, even, c
    cdef int i
    cdef int last = ERFC_SHORT - 1 if sizeof(real) == sizeof(float) else ERFC_TERMS - 1
    odd, even = broadcast(ERFC[last]), broadcast(ERFC[last - 1])
    for i in range(last - 2, 0, -2):
        odd = odd * square + ERFC[i]
        even = even * square + ERFC[i - 1]
    c = (odd * t + even) * density * <real>0.5 / (z + z + broadcast(1))
    return choose(<lanes>(x > 0.0), 1.0 - c, c)


cdef inline vec twice_u(vec x) noexcept nogil:
    """2 u  with  u = sqrt(2 / pi) (x + 0.044715 x^3), for which (1 + tanh u) / 2 = sigmoid(2 u)."""
    return x * (x * x * <real>(0.044715 * 1.5957691216057308) + <real>1.5957691216057308)


cdef inline vec activate(vec x, int kind, vec alpha) noexcept nogil:
    """f(x)."""
    cdef vec near
    if kind == LEAKY_RELU:          # alpha x where x <= 0
        return choose(<lanes>(x > 0.0), x, alpha * x)
    if kind == ELU:                 # alpha (e^x - 1) where x <= 0
        return choose(<lanes>(x > 0.0), x, alpha * vec_expm1(smaller(broadcast(0), x)))
    if kind == SIGMOID:             # 1 / (1 + e^-x)
        return sigmoid(x)
    if kind == TANH:                # (1 - e^-2|x|) / (1 + e^-2|x|), with the sign of x
        near = vec_expm1(magnitude(x) * <real>-2)
        return with_sign_of(x, near / (near + broadcast(2)))
    if kind == GELU:                # x Phi(x)
        near = within(x, PHI_LIMIT)
        return larger(broadcast(-PHI_LIMIT), x) * normal_share(near, normal_density(near))
    if kind == GELU_TANH:           # x (1 + tanh u) / 2
        return larger(broadcast(-2 * BIAS), x) * sigmoid(twice_u(x))
    # SILU:                         x / (1 + e^-x)
    return larger(broadcast(-2 * BIAS), x) * sigmoid(x)


cdef inline vec derivative(vec x, vec y, int kind, vec alpha) noexcept nogil:
    """f'(x), where y is f(x)."""
    cdef vec near, s, e
    if kind == LEAKY_RELU:
        return choose(<lanes>(x > 0.0), broadcast(1), choose(<lanes>(x <= 0.0), alpha, x))
    if kind == ELU:
        return choose(<lanes>(x > 0.0), broadcast(1), alpha * vec_exp(smaller(broadcast(0), x)))
    if kind == SIGMOID:
        return y * (1.0 - y)
    if kind == TANH:
        return 1.0 - y * y
    if kind == GELU:                # Phi(x) + x e^(-x^2 / 2) / sqrt(2 pi)  with  Phi(x) = y / x
        near = within(x, PHI_LIMIT)
        s = choose(<lanes>(magnitude(x) > TINY), y / near, broadcast(0.5))
        s = choose(<lanes>(x > PHI_LIMIT), broadcast(1), s)
        return s + near * normal_density(near) * <real>0.39894228040143267794
    if kind == GELU_TANH:           # s + x s (1 - s) 2 u'  with  s = sigmoid(2 u), 1 - s = e^-2u s
        near = within(x, TANH_LIMIT)
        e = vec_exp(-twice_u(near))
        s = broadcast(1) / (e + broadcast(1))
        s = s + near * s * (e * s) * (
            near * near * <real>(3 * 0.044715 * 1.5957691216057308) + <real>1.5957691216057308)
        return choose(<lanes>(x < near), broadcast(0), s)
    # SILU:                         s + x s (1 - s)  with  s = sigmoid(x), 1 - s = e^-x s
    near = within(x, <real>(0.69 * BIAS))
    e = vec_exp(-near)
    s = broadcast(1) / (e + broadcast(1))
    return choose(<lanes>(x < near), broadcast(0), s + near * s * (e * s))


cdef inline void activate_all(
        const real *X, real *Y, Py_ssize_t size, real alpha, int kind) noexcept nogil:
    cdef Py_ssize_t i
    for i from 0 <= i < size by LANES:
        store(Y + i, activate(load(X + i, size - i), kind, broadcast(alpha)), size - i)


cdef inline void derive_all(
        const real *X, const real *Y, const real *dY, real *dX, Py_ssize_t size, real alpha,
        int kind) noexcept nogil:
    cdef vec slope
    cdef Py_ssize_t i
    for i from 0 <= i < size by LANES:
        slope = derivative(load(X + i, size - i), load(Y + i, size - i), kind, broadcast(alpha))
        store(dX + i, slope * load(dY + i, size - i), size - i)


cdef void activation_forward(
        const real *X, real *Y, Py_ssize_t size, int kind, double alpha) noexcept nogil:
    """Y = f(X)."""
    if kind == LEAKY_RELU:
        activate_all(X, Y, size, alpha, LEAKY_RELU)
    elif kind == ELU:
        activate_all(X, Y, size, alpha, ELU)
    elif kind == SIGMOID:
        activate_all(X, Y, size, alpha, SIGMOID)
    elif kind == TANH:
        activate_all(X, Y, size, alpha, TANH)
    elif kind == GELU:
        activate_all(X, Y, size, alpha, GELU)
    elif kind == GELU_TANH:
        activate_all(X, Y, size, alpha, GELU_TANH)
    else:
        activate_all(X, Y, size, alpha, SILU)


cdef void activation_backward(
        const real *X, const real *Y, const real *dY, real *dX, Py_ssize_t size,
        int kind, double alpha) noexcept nogil:
    """dX = f'(X) dY, where Y is f(X)."""
    if kind == LEAKY_RELU:
        derive_all(X, Y, dY, dX, size, alpha, LEAKY_RELU)
    elif kind == ELU:
        derive_all(X, Y, dY, dX, size, alpha, ELU)
    elif kind == SIGMOID:
        derive_all(X, Y, dY, dX, size, alpha, SIGMOID)
    elif kind == TANH:
        derive_all(X, Y, dY, dX, size, alpha, TANH)
    elif kind == GELU:
        derive_all(X, Y, dY, dX, size, alpha, GELU)
    elif kind == GELU_TANH:
        derive_all(X, Y, dY, dX, size, alpha, GELU_TANH)
    else:
        derive_all(X, Y, dY, dX, size, alpha, SILU)
