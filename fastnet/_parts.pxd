"""Work in parts, on several threads: some rows or columns of what an operation makes, or some of a
layer's weights. The bits are those of the whole.

`through`, `back`, `weights_back` and the others below do a piece of work on up to so many threads.
`_engine` does a network's work by them, and `_ops` that of single layers.
"""
from libc.math cimport ilogb
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from fastnet._pool cimport Task, run
from fastnet._table cimport KernelTable, Update, real
from fastnet._tuner cimport Tuner

cdef extern from * nogil:       # of gcc and clang: parts of a work may write to it at a time
    void store_flag "__atomic_store_n"(int *, int, int)
    int RELAXED "__ATOMIC_RELAXED"

cdef enum Kind:
    DENSE
    RELU
    ACTIVATION
    SOFTMAX
    LOG_SOFTMAX
    LAYER_NORM
    DROPOUT
    SCALE
    REMEMBER
    ADD

cdef enum:
    ROWS_APART = 16         # where parts of rows begin: kernels take up to so many together,
    FEWEST = 4              # rows in a part: softmax of fewer goes another way
    ENTRIES_APART = 1024    # and parts of parameters
    COLUMNS_APART = 48      # in a part of a wide layer, or a multiple: kernels take so many
    WIDE_LAYER = 32_768     # weights of one, at least,
    WIDE_COLUMNS = 384      # and columns,
    MANY_ROWS = 1024        # while the batch has fewer rows than that
    TALL_BATCH = 64         # rows, from which on gradients by weights are cut along columns as well
    WORK_OF_A_PART = 100_000    # multiplications, at least, that are worth a part of their own
    PARTS_PER_THREAD = 4    # so that a thread that is held up holds up one of them
    PER_ENTRY = 8           # multiplications that an entry takes, where there is no product
    SHARED_WORK = 200_000   # multiplications, at least, that may pay for several threads,
    SURE_WORK = 5_000_000   # and that are given to all of them, while nothing is measured yet
    WORK_CLASSES = 12       # of 4 times the work each

cdef struct Operation:
    Kind kind
    Py_ssize_t n_in, n_out          # columns of the value it reads and of the one it makes
    Py_ssize_t x, y                 # their places in training
    Py_ssize_t from_, to            # and in prediction
    Py_ssize_t weight, bias         # where they begin among the parameters, or NOWHERE
    const char *trains              # likewise: not 0 if they are to be updated
    Py_ssize_t packed               # DENSE: where its packed weights begin
    Py_ssize_t skip, skip_from      # ADD: the places of the value that is added
    Py_ssize_t aside                # ADD, REMEMBER: of the gradient that was put aside
    bint relu                       # DENSE: a ReLU in the same pass
    bint after_relu                 # DENSE: x comes from such a pass, and so do dx and its mask
    bint masks                      # DENSE: has to mask its own dy, as no DENSE comes next
    double factor                   # SCALE; alpha of ACTIVATION, eps of LAYER_NORM, p of DROPOUT
    int function                    # ACTIVATION: which
    Py_ssize_t stats, stats_from    # LAYER_NORM: place for 2 doubles a row
    uint64_t *seen                  # DROPOUT: entries in earlier steps, and the seed
    uint64_t first                  # DROPOUT: the number of this step's first entry


cdef struct Work:
    const KernelTable *kernels
    Operation *op
    Py_ssize_t itemsize
    Py_ssize_t n                    # rows of the batch
    Py_ssize_t size, part           # rows or entries to share out, and of one part
    const real *x                   # what the operation reads and makes,
    const real *skip
    real *y
    Py_ssize_t x_row, skip_row, y_row   # entries from one row to the next, where a part begins
    Py_ssize_t across, width        # parts side by side, and columns of one
    real *stats
    const real *dy                  # and gradients by these
    real *dx
    real *weight                    # its parameters, in whichever form
    real *bias
    real *gradient
    real *states[3]
    const Update *u
    Py_ssize_t together             # rows of weights in an update
    uint64_t first_entry            # DROPOUT
    bint packed, add
    int broken                      # whether anything that parts have updated is not finite


cdef struct Pass:                   # forward, of rows that go through all operations on their own
    Work *works
    Py_ssize_t n_works, size, part


cdef inline real *moved(
        const real *start, Py_ssize_t entries, const Work *w) noexcept nogil:
    """An array's entry; NULL where there is no array."""
    return <real *>(<const char *>start + entries * w.itemsize) if start != NULL else NULL


cdef inline void rows_forward(
        const Work *w, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t column,
        Py_ssize_t end) noexcept nogil:
    """Some rows of what an operation makes, and some columns of what a dense one does."""
    cdef Operation *op = w.op
    cdef Py_ssize_t size = rows * op.n_out
    cdef const real *x = moved(w.x, first * w.x_row, w)
    cdef real *y = moved(w.y, first * w.y_row, w)
    if op.kind == DENSE:
        if w.packed:
            w.kernels.dense_forward_packed(
                x, w.weight, w.bias, y, w.n, op.n_in, op.n_out, op.relu, rows, column, end)
        else:
            w.kernels.dense_forward(
                x, w.weight, w.bias, y, w.n, op.n_in, op.n_out, op.relu, rows, column, end)
    elif op.kind == RELU:
        w.kernels.relu_forward(x, y, size)
    elif op.kind == ACTIVATION:
        w.kernels.activation_forward(x, y, size, op.function, op.factor)
    elif op.kind == SOFTMAX:
        w.kernels.softmax_forward(x, y, rows, op.n_out)
    elif op.kind == LOG_SOFTMAX:
        w.kernels.log_softmax_forward(x, y, rows, op.n_out)
    elif op.kind == LAYER_NORM:
        w.kernels.layer_norm_forward(
            x, w.weight, w.bias, y, <double *>w.stats + 2 * first, rows, op.n_out, op.factor)
    elif op.kind == DROPOUT:
        w.kernels.dropout(
            x, y, size, op.factor, op.seen[1], w.first_entry + <uint64_t>(first * op.n_out))
    elif op.kind == SCALE:
        w.kernels.scale(x, y, size, op.factor)
    elif op.kind == REMEMBER:
        memcpy(y, x, size * w.itemsize)
    else:
        w.kernels.add_forward(x, moved(w.skip, first * w.skip_row, w), y, size)


cdef inline void rows_backward(
        const Work *w, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t column,
        Py_ssize_t end) noexcept nogil:
    """Some rows of the gradient by what an operation reads, and columns, as `rows_forward`."""
    cdef Operation *op = w.op
    cdef Py_ssize_t at = first * op.n_out, size = rows * op.n_out
    cdef const real *x = moved(w.x, first * op.n_in, w)
    cdef const real *y = moved(w.y, at, w)
    cdef const real *dy = moved(w.dy, at, w)
    cdef real *dx = moved(w.dx, first * op.n_in, w)
    if op.kind == DENSE:
        w.kernels.input_gradient(
            w.weight, dy, x if op.after_relu else NULL, dx, w.n, op.n_in, op.n_out, rows,
            column, end)
    elif op.kind == RELU:
        w.kernels.relu_backward(x, dy, dx, size)
    elif op.kind == ACTIVATION:
        w.kernels.activation_backward(x, y, dy, dx, size, op.function, op.factor)
    elif op.kind == SOFTMAX:
        w.kernels.softmax_backward(y, dy, dx, rows, op.n_out)
    elif op.kind == LOG_SOFTMAX:
        w.kernels.log_softmax_backward(y, dy, dx, rows, op.n_out)
    elif op.kind == DROPOUT:
        w.kernels.dropout(dy, dx, size, op.factor, op.seen[1], w.first_entry + <uint64_t>at)
    elif op.kind == SCALE:
        w.kernels.scale(dy, dx, size, op.factor)
    else:                               # REMEMBER: what was put aside is added
        w.kernels.add_forward(dy, moved(w.skip, at, w), dx, size)


cdef inline void bias_backward(const Work *w) noexcept nogil:
    """The gradient by a layer's bias, if there is one."""
    if w.bias != NULL:
        w.kernels.sum_rows(w.dy, w.bias, w.n, w.op.n_out, w.add)


cdef inline void weights_backward(
        const Work *w, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t column,
        Py_ssize_t end) noexcept nogil:
    """Some rows and columns of the gradient by a layer's weights."""
    w.kernels.weight_gradient(
        w.x, w.dy, moved(w.gradient, first * w.op.n_out, w), w.n, w.op.n_in, w.op.n_out,
        first, rows, column, end, w.add)


cdef inline bint weights_updated(
        const Work *w, Py_ssize_t first, Py_ssize_t rows) noexcept nogil:
    """Some rows of a layer's weights by their gradient, which is not kept.

    Each part has some of the scratch for it.
    """
    return w.kernels.dense_update(
        w.x, w.dy, w.dx if w.n == 1 else NULL,
        moved(w.gradient, first // w.part * w.together * w.op.n_out, w), w.weight,
        w.states[0], w.states[1], w.states[2], w.n, w.op.n_in, w.op.n_out, w.op.after_relu,
        first, rows, w.together, w.u)


cdef inline bint entries_updated(
        const Work *w, Py_ssize_t first, Py_ssize_t entries) noexcept nogil:
    """Some parameters by their gradients."""
    return w.kernels.update(
        moved(w.gradient, first, w), moved(w.weight, first, w), moved(w.states[0], first, w),
        moved(w.states[1], first, w), moved(w.states[2], first, w), entries, w.u)


cdef struct Copy:                   # of rows
    const char *rows
    char *to
    const Py_ssize_t *order         # which, or NULL: as they stand
    Py_ssize_t row, size, part      # bytes of a row; rows to copy, and in a part


# The same as tasks for the pool.

cdef inline void part_copied(void *work, Py_ssize_t part) noexcept nogil:
    cdef Copy *c = <Copy *>work
    cdef Py_ssize_t i
    for i in range(part * c.part, min((part + 1) * c.part, c.size)):
        memcpy(c.to + i * c.row, c.rows + (c.order[i] if c.order != NULL else i) * c.row, c.row)


cdef inline void part_forward(void *work, Py_ssize_t part) noexcept nogil:
    cdef Pass *p = <Pass *>work
    cdef Py_ssize_t i, first = part * p.part, rows = min(p.part, p.size - part * p.part)
    for i in range(p.n_works):
        rows_forward(&p.works[i], first, rows, 0, p.works[i].op.n_out)


cdef inline void part_of_columns_forward(void *work, Py_ssize_t part) noexcept nogil:
    cdef Work *w = <Work *>work
    cdef Py_ssize_t first = part // w.across * w.part, column = part % w.across * w.width
    rows_forward(w, first, min(w.part, w.size - first), column,
                 min(column + w.width, w.op.n_out))


cdef inline void part_backward(void *work, Py_ssize_t part) noexcept nogil:
    cdef Work *w = <Work *>work
    cdef Py_ssize_t first = part // w.across * w.part, column = part % w.across * w.width
    rows_backward(w, first, min(w.part, w.size - first), column, min(column + w.width, w.op.n_in))


cdef inline void part_of_weights_backward(void *work, Py_ssize_t part) noexcept nogil:
    cdef Work *w = <Work *>work
    cdef Py_ssize_t first = part // w.across * w.part, column = part % w.across * w.width
    if first >= w.size:                 # one more, besides the weights
        bias_backward(w)
        return
    weights_backward(w, first, min(w.part, w.size - first), column,
                     min(column + w.width, w.op.n_out))


cdef inline void part_of_weights_updated(void *work, Py_ssize_t part) noexcept nogil:
    cdef Work *w = <Work *>work
    if part * w.part >= w.size:
        bias_backward(w)
        return
    if not weights_updated(w, part * w.part, min(w.part, w.size - part * w.part)):
        store_flag(&w.broken, 1, RELAXED)


cdef inline void part_updated(void *work, Py_ssize_t part) noexcept nogil:
    cdef Work *w = <Work *>work
    if not entries_updated(w, part * w.part, min(w.part, w.size - part * w.part)):
        store_flag(&w.broken, 1, RELAXED)


cdef inline void part_of_norm_backward(void *work, Py_ssize_t part) noexcept nogil:
    cdef Work *w = <Work *>work
    cdef Py_ssize_t first = part * w.part, at = first * w.op.n_out
    cdef const double *stats = <const double *>w.stats
    if first >= w.size:                 # one more: what is summed over all rows
        w.kernels.layer_norm_backward(
            w.x, w.weight, stats, w.dy, NULL, w.gradient, w.bias, w.n, w.op.n_out, w.add)
    elif w.dx != NULL:
        w.kernels.layer_norm_backward(
            moved(w.x, at, w), w.weight, stats + 2 * first, moved(w.dy, at, w), moved(w.dx, at, w),
            NULL, NULL, min(w.part, w.size - first), w.op.n_out, False)


cdef inline void part_masked(void *work, Py_ssize_t part) noexcept nogil:
    cdef Work *w = <Work *>work
    cdef Py_ssize_t at = part * w.part * w.op.n_out
    cdef real *dy = moved(w.dy, at, w)
    w.kernels.relu_backward(
        moved(w.y, at, w), dy, dy, min(w.part, w.size - part * w.part) * w.op.n_out)


# ---- How much at a time ------------------------------------------------------------------------

cdef inline Py_ssize_t most_parts(int threads) noexcept nogil:
    """Into how many parts work is cut."""
    return PARTS_PER_THREAD * <Py_ssize_t>threads if threads > 1 else 1


cdef inline bint cut(
        double multiplications, Py_ssize_t size, Py_ssize_t distance, int threads,
        Py_ssize_t *part) noexcept nogil:
    """Whether to do some work on `size` rows or entries in parts, and of how many.

    Parts begin at multiples of a distance.
    """
    cdef Py_ssize_t parts
    part[0] = size
    if threads <= 1:
        return False
    parts = min(<Py_ssize_t>(multiplications / WORK_OF_A_PART), most_parts(threads),
                (size + distance - 1) // distance)
    if parts <= 1:
        return False
    part[0] = ((size + parts - 1) // parts + distance - 1) // distance * distance
    while 0 < size % part[0] < FEWEST:
        part[0] += distance
    return part[0] < size


cdef inline double multiplications_of(const Work *w) noexcept nogil:
    """Of an operation, on all rows."""
    return <double>w.n * w.op.n_out * (w.op.n_in if w.op.kind == DENSE else PER_ENTRY)


cdef inline bint is_wide(
        const Operation *op, Py_ssize_t n, Py_ssize_t columns) noexcept nogil:
    """Whether an operation is a product of n rows that is cut along its so many columns."""
    return (op.kind == DENSE and n < MANY_ROWS and columns >= WIDE_COLUMNS
            and op.n_in * op.n_out >= WIDE_LAYER)


cdef inline void cut_across(
        Work *w, Py_ssize_t columns, Py_ssize_t across, Py_ssize_t down) noexcept nogil:
    """Into up to so many parts next to each other, and below each other."""
    cdef Py_ssize_t strips = (columns + COLUMNS_APART - 1) // COLUMNS_APART
    across = min(across, strips)
    w.width = (strips + across - 1) // across * COLUMNS_APART
    w.across = (columns + w.width - 1) // w.width
    w.part = ((w.size + down - 1) // down + ROWS_APART - 1) // ROWS_APART * ROWS_APART


cdef inline bint cut_columns(
        Work *w, Py_ssize_t depth, Py_ssize_t columns, int threads) noexcept nogil:
    """`cut` for a wide product: along its columns, and where these are few its rows too.

    A part has few columns, and there are many of them: the last ones end nearly at the same time.
    """
    cdef Py_ssize_t parts = min(most_parts(threads),
                                <Py_ssize_t>(multiplications_of(w) / WORK_OF_A_PART))
    w.across, w.width, w.part = 1, columns, w.size
    if parts <= 1:
        return False
    cut_across(w, columns, 4 * parts, 1)
    if w.across < parts:
        cut_across(w, columns, 4 * parts, (parts + w.across - 1) // w.across)
    return True


cdef inline void cut_both_ways(Work *w) noexcept nogil:
    """Into as many parts as `cuts` made of rows, but half as high as the whole at least.

    Each part copies and reads the columns of dy that are its own, and the columns of x: the nearer
    it is to a square, the less that is.
    """
    cdef Py_ssize_t parts = parts_of(w)
    if parts >= 4:
        cut_across(w, w.op.n_out, parts // 2, 2)


cdef inline Py_ssize_t parts_of(const Work *w) noexcept nogil:
    """How many parts were cut."""
    return (w.size + w.part - 1) // w.part * w.across


cdef inline Py_ssize_t parts_of_weights(const Work *w) noexcept nogil:
    """How many parts were cut, with one more for the bias."""
    return parts_of(w) + (w.bias != NULL)


cdef inline bint cuts(Work *w, Py_ssize_t size, Py_ssize_t distance, int threads) noexcept nogil:
    """`cut` for some rows or weights of an operation."""
    w.size = size
    return cut(multiplications_of(w), size, distance, threads, &w.part)


cdef inline Tuner *tuner_of(Tuner *tuners, double multiplications) noexcept nogil:
    """Of WORK_CLASSES tuners that of work like this."""
    return tuners + max(0, min(<int>WORK_CLASSES - 1, ilogb(multiplications / SHARED_WORK) // 2))


# ---- Pieces of work ----------------------------------------------------------------------------

cdef inline void rows_together(Pass *p, int threads) noexcept nogil:
    """Take rows through all operations of a pass."""
    cdef double multiplications = 0
    cdef Py_ssize_t i
    for i in range(p.n_works):
        multiplications += multiplications_of(&p.works[i])
    if p.n_works and cut(multiplications, p.size, ROWS_APART, threads, &p.part):
        run(part_forward, p, (p.size + p.part - 1) // p.part, threads)
        return
    p.part = p.size
    part_forward(p, 0)


cdef inline void through(
        Work *works, Py_ssize_t n_works, Py_ssize_t n, int threads,
        bint in_turns) noexcept nogil:
    """Take rows through all operations that are prepared; in turns: one after the other."""
    cdef Pass p = Pass(works, n_works, n, n)
    cdef Py_ssize_t i
    if threads <= 1:
        for i in range(n_works):
            rows_forward(&works[i], 0, n, 0, works[i].op.n_out)
        return
    # Wide layers are cut along their weights, so that each part reads some of these, one layer
    # after the other; what stands between them along the rows.
    p.n_works = 0
    for i in range(n_works):
        if is_wide(works[i].op, n, works[i].op.n_out):
            rows_together(&p, threads)
            works[i].size = n
            if cut_columns(&works[i], works[i].op.n_in, works[i].op.n_out, threads):
                run(part_of_columns_forward, &works[i], parts_of(&works[i]), threads)
            else:
                rows_forward(&works[i], 0, n, 0, works[i].op.n_out)
            p.works, p.n_works = &works[i + 1], 0
            continue
        p.n_works += 1
        if in_turns:
            rows_together(&p, threads)
            p.works, p.n_works = &works[i + 1], 0
    rows_together(&p, threads)


cdef inline void back(Work *w, int threads) noexcept nogil:
    """The gradient by what an operation reads."""
    cdef bint cut_up
    w.across, w.width = 1, w.op.n_in
    if is_wide(w.op, w.n, w.op.n_in):
        w.size = w.n
        cut_up = cut_columns(w, w.op.n_out, w.op.n_in, threads)
    else:
        cut_up = cuts(w, w.n, ROWS_APART, threads)
    if cut_up:
        run(part_backward, w, parts_of(w), threads)
    else:
        rows_backward(w, 0, w.n, 0, w.op.n_in)


cdef inline void weights_back(Work *w, int threads) noexcept nogil:
    """The gradients by a layer's weights and bias."""
    w.across, w.width = 1, w.op.n_out
    if cuts(w, w.op.n_in, ROWS_APART, threads):
        if w.n >= TALL_BATCH and w.op.n_out >= WIDE_COLUMNS:
            cut_both_ways(w)
        run(part_of_weights_backward, w, parts_of_weights(w), threads)
        return
    bias_backward(w)
    weights_backward(w, 0, w.op.n_in, 0, w.op.n_out)


cdef inline void norm_back(Work *w, int threads) noexcept nogil:
    """All gradients of a layer normalization."""
    if cuts(w, w.n, ROWS_APART, threads):
        run(part_of_norm_backward, w, (w.size + w.part - 1) // w.part + 1, threads)
        return
    w.kernels.layer_norm_backward(
        w.x, w.weight, <const double *>w.stats, w.dy, w.dx, w.gradient, w.bias, w.n, w.op.n_out,
        w.add)


cdef inline void mask_back(Work *w, int threads) noexcept nogil:
    """dy := 0 where y <= 0, for a ReLU that went with what made y."""
    w.size = w.n
    if cut(<double>PER_ENTRY * w.n * w.op.n_out, w.n, ROWS_APART, threads, &w.part):
        run(part_masked, w, (w.size + w.part - 1) // w.part, threads)
    else:
        part_masked(w, 0)


cdef inline void copy_rows(Copy *c, Py_ssize_t columns, int threads) noexcept nogil:
    """Copy all rows of a copy."""
    if cut(<double>PER_ENTRY * c.size * columns, c.size, 1, threads, &c.part):
        run(part_copied, c, (c.size + c.part - 1) // c.part, threads)
    else:
        part_copied(c, 0)


# ---- Packed weights ----------------------------------------------------------------------------

cdef struct Packing:
    const KernelTable *kernels
    const Operation *operations
    char *weights
    char *packed
    Py_ssize_t itemsize


cdef inline void part_packed(void *work, Py_ssize_t part) noexcept nogil:
    cdef Packing *p = <Packing *>work
    cdef const Operation *op = &p.operations[part]
    if op.kind == DENSE:
        p.kernels.pack_weights(
            <const real *>(p.weights + op.weight * p.itemsize),
            <real *>(p.packed + op.packed * p.itemsize), op.n_in, op.n_out)
