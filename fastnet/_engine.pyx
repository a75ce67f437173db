"""The engine: a step, an epoch or a prediction of a whole network in one native call.

A network is a flat list of operations; `forward` walks down it and `backward` up again. They only
sequence the kernels of the table: all arithmetic is there. Numbers live in three places:

* the parameters, their gradients and their velocities, each one contiguous aligned buffer, in
  which every operation knows where its own begin;
* the values that operations hand to each other, in an arena that is sized before it is used. In
  training each keeps its place until backward has read it, in prediction two places alternate;
* the gradients by those values, in two places of the arena that alternate.

A place is a number of columns: for n rows it begins n times as many entries behind the arena's
start. The only branch is a residual: REMEMBER marks its beginning, ADD adds the value from there,
and on the way back the gradient is put aside at ADD and added at REMEMBER.
"""
import math

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport isfinite, sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid, pid_t

from fastnet._ops cimport (
    Caller, apart, check_rate, enter, kernels_of, leave, output, plain_or_not)
from fastnet._parts cimport (
    ACTIVATION, ADD, DENSE, DROPOUT, ENTRIES_APART, LAYER_NORM, LOG_SOFTMAX, PER_ENTRY, RELU,
    REMEMBER, ROWS_APART, SCALE, SHARED_WORK, SOFTMAX, SURE_WORK, WORK_CLASSES, Copy, Operation,
    Packing, Work, back, bias_backward, copy_rows, cut, cuts, entries_updated, is_wide, mask_back,
    most_parts, norm_back, part_of_weights_updated, part_packed, part_updated, parts_of_weights,
    through, tuner_of, weights_back, weights_updated)
from fastnet._pool cimport allowed, run
from fastnet._table cimport ADAM, PLAIN_SGD, RMSPROP, SGD, KernelTable, Update, real
from fastnet._tuner cimport Tuner, seconds_now, threads_for, took

from fastnet._ops import ACTIVATIONS, ENTRY_LOSSES, as_floats

cnp.import_array()

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MIN

cdef enum Loss:
    SOFTMAX_CROSS_ENTROPY
    CROSS_ENTROPY
    NEGATIVE_LOG_LIKELIHOOD
    ENTRIES                 # one of ENTRY_LOSSES

cdef enum Purpose:              # of work that is measured
    TRAINING
    PREDICTING
    UPDATING
    PURPOSES

cdef enum Outcome:
    FINE
    BAD_LABEL
    BAD_PROBABILITY
    BAD_LOSS                # not finite: the step was not applied
    BAD_GRADIENT            # likewise
    BAD_PARAMETER           # the step was applied, and a parameter is not finite

cdef enum:
    NOWHERE = -1
    INPUT = -2              # a place outside the arena: what the network was given
    OUTPUT = -3             # and what it is to fill
    ALIGNMENT = 64          # bytes: a cache line, and the widest vector
    FEW_ROWS = 96           # of dW at a time, where an update follows at once
    MANY_PARAMETERS = 32_768    # in a layer: from here on, its update follows its gradient at once,
    SMALL_BATCH = 256       # if the batch is small, or else the product is all that counts;
    WIDE = 64               # with so many outputs, also where the batch is a single sample
    BLOCK_ROWS = 256        # at a time, or more,
    BLOCK_ENTRIES = 131_072     # while the widest value of a prediction has no more entries,
    ROWS_PER_WEIGHT = 600     # or in training one for so many weights of the largest layer
    WORK_PER_OPERATION = 1_000  # what calling a kernel costs besides, in multiplications
    WORK_BETWEEN_SIGNALS = 4_000_000    # 0.1 to 4 ms
    SPARE = 16              # entries behind gradients that wait, for numbers that go with them

KINDS = {"dense": DENSE, "relu": RELU, "activation": ACTIVATION, "softmax": SOFTMAX,
         "log_softmax": LOG_SOFTMAX, "layer_norm": LAYER_NORM, "dropout": DROPOUT, "scale": SCALE,
         "remember": REMEMBER, "add": ADD}
OUTCOMES = {FINE: "fine", BAD_LABEL: "label", BAD_PROBABILITY: "probability", BAD_LOSS: "loss",
            BAD_GRADIENT: "gradient", BAD_PARAMETER: "parameter"}
LOSSES = {"softmax_cross_entropy": SOFTMAX_CROSS_ENTROPY, "cross_entropy": CROSS_ENTROPY,
          "negative_log_likelihood": NEGATIVE_LOG_LIKELIHOOD}

cdef struct Batch:
    const real *x
    const Py_ssize_t *labels        # or NULL
    const real *rows                # or NULL
    const real *weights             # of the samples, or NULL
    Py_ssize_t n


cdef class Objective:
    """A loss with its options, for networks of one dtype.

    Parameters
    ----------
    kind : str
        One of `LOSSES` or of `_ops.ENTRY_LOSSES`.
    dtype : numpy.dtype
    mean : bool
        False: the sum.
    class_weight, pos_weight : ndarray of `dtype` (n_out,), optional
    ignore_index : int, optional
    label_smoothing, delta : float
    penalty : float
        Half of this times the sum of all weights' squares is added to the sum of a batch's losses,
        for what is reported; the optimizer's decay makes it count.
    by_rows : bool
        What is reported for several batches counts each by its rows, not by its weights, unless
        these are all 0.
    """

    cdef Loss loss
    cdef int of_entries             # which of ENTRY_LOSSES
    cdef bint mean, takes_rows, by_rows
    cdef double smoothing, delta, penalty
    cdef Py_ssize_t ignored
    cdef cnp.ndarray class_weights, positive
    cdef char *class_weights_start
    cdef char *positive_start

    def __init__(self, str kind, dtype, bint mean=True, cnp.ndarray class_weight=None,
                 cnp.ndarray pos_weight=None, ignore_index=None, double label_smoothing=0.0,
                 double delta=1.0, double penalty=0.0, bint by_rows=False):
        self.loss = LOSSES.get(kind, ENTRIES)
        self.of_entries = ENTRY_LOSSES[kind] if self.loss == ENTRIES else 0
        self.mean, self.smoothing, self.delta = mean, label_smoothing, delta
        self.penalty, self.by_rows = penalty, by_rows
        self.ignored = PY_SSIZE_T_MIN if ignore_index is None else ignore_index
        self.takes_rows = (kind == "negative_log_likelihood" or class_weight is not None
                           or ignore_index is not None or label_smoothing != 0)
        self.class_weights, self.positive = class_weight, pos_weight
        if class_weight is not None:
            self.class_weights_start = cnp.PyArray_BYTES(class_weight)
        if pos_weight is not None:
            self.positive_start = cnp.PyArray_BYTES(pos_weight)


cdef class Steps:
    """An optimizer with its options and the states of a network's parameters.

    Parameters
    ----------
    rule : {"sgd", "adam", "rmsprop"}
    states : tuple of 3
        Vectors like the parameters, or None: see `Update` in _table.pxd.
    rates : ndarray of float64 (1 or more, 4)
        rate, root, shrink and decay of each step that is to come; the last row stands for more.
    clip, clip_norm : float
        clip_norm: gradients are made smaller so that their norm is at most this; or infinite.
    decays_vectors : bool
        Whether decay and shrink are meant for biases and the like as well.
    taken : ndarray of int64 (1,)
        Counts steps, without an object that there might be no memory for.
    momentum, gain, look, direct, memory, eps : float
        As of `Update`. `look` and `direct`: of SGD with momentum.
    """

    cdef Update numbers
    cdef readonly tuple states
    cdef char *starts[3]
    cdef public cnp.ndarray rates
    cdef double clip_norm
    cdef bint spares_vectors
    cdef cnp.ndarray counted
    cdef int64_t *taken

    def __init__(self, str rule, tuple states, cnp.ndarray rates, double clip,
                 double clip_norm, bint decays_vectors, cnp.ndarray taken, *,
                 double momentum=0.0, double gain=1.0, double look=1.0,
                 double direct=0.0, double memory=0.0, double eps=0.0):
        self.numbers.rule = {"sgd": SGD, "adam": ADAM, "rmsprop": RMSPROP}[rule]
        self.numbers.momentum, self.numbers.gain = momentum, gain
        self.numbers.look, self.numbers.direct = look, direct
        self.numbers.memory, self.numbers.eps = memory, eps
        self.numbers.scale, self.numbers.clip = 1, clip
        self.states = states
        for i in range(3):
            self.starts[i] = NULL if states[i] is None else cnp.PyArray_BYTES(states[i])
        self.rates = rates
        self.clip_norm = clip_norm
        self.spares_vectors = not decays_vectors
        self.counted, self.taken = taken, <int64_t *>cnp.PyArray_DATA(taken)

    cdef int check(self, int dtype) except -1:
        """ValueError if the rate of any step is more than the dtype can say."""
        cdef Py_ssize_t step
        for step in range(cnp.PyArray_DIM(self.rates, 0)):
            check_rate(self.at(step).rate, dtype)
        return 0

    cdef Update at(self, Py_ssize_t step) noexcept nogil:
        """The numbers of a step, counted from 0."""
        cdef Update u = self.numbers
        cdef const double *rates = <const double *>cnp.PyArray_DATA(self.rates)
        rates += 4 * min(step, cnp.PyArray_DIM(self.rates, 0) - 1)
        u.rate, u.root, u.shrink, u.decay = rates[0], rates[1], rates[2], rates[3]
        return plain_or_not(u)


def aligned_zeros(size, dtype):
    """Return a vector of zeros that begins at a multiple of 64 bytes."""
    itemsize = np.dtype(dtype).itemsize
    cdef cnp.ndarray raw = np.zeros(size * itemsize + ALIGNMENT, np.uint8)
    start = ALIGNMENT - <size_t>cnp.PyArray_BYTES(raw) % ALIGNMENT
    return raw[start:start + size * itemsize].view(dtype)


def padded(size, dtype):
    """Return `size` rounded up to entries that fill whole multiples of 64 bytes."""
    per_line = ALIGNMENT // np.dtype(dtype).itemsize
    return -(-size // per_line) * per_line


cdef inline Py_ssize_t evenly(Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    """Rows in a part, if n are cut into as few parts of up to `most` as will do."""
    cdef Py_ssize_t parts = max(<Py_ssize_t>1, (n + most - 1) // most)
    return (n + parts - 1) // parts


cdef inline bint overlap(char *a, Py_ssize_t a_size, char *b, Py_ssize_t b_size) noexcept:
    return a < b + b_size and b < a + a_size


cdef class Arena:
    """Memory for so many rows of so many columns, and for a pass of so many operations."""

    cdef readonly cnp.ndarray memory
    cdef char *start
    cdef Py_ssize_t rows
    cdef bint lent
    cdef Work *works

    def __init__(self, Py_ssize_t rows, Py_ssize_t columns, dtype, Py_ssize_t operations=0):
        # Whole lines for each place, however wide: rows in sixteens.
        self.rows = (rows + 15) // 16 * 16
        self.memory = aligned_zeros(self.rows * columns, dtype)
        self.start = cnp.PyArray_BYTES(self.memory)
        self.works = <Work *>malloc(operations * sizeof(Work))
        if operations and self.works == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.works)


cdef class Use:
    """Who is at work on some parameters; shared by a network and those inside it.

    * `with use`: they are read. No other thread may be writing then.
    * `with use.training`: this thread trains, and may begin to again meanwhile; a second one is
      refused.
    * `with use.exclusive`: likewise, and it needs the parameters for itself alone.

    Each raises RuntimeError where that cannot be. As the blocks are entered and left in compiled
    code, no signal can come between a block and what is noted here.
    """

    cdef bint writing               # now, and not only between other things
    cdef Py_ssize_t reading
    cdef unsigned long owner        # the thread that trains,
    cdef Py_ssize_t depth           # and how often it has begun to
    cdef pid_t process              # that all this is of

    def __cinit__(self):
        self.process = getpid()

    @property
    def training(self):
        """A `with` block in which this thread trains."""
        return Turn.__new__(Turn, self, False)

    @property
    def exclusive(self):
        """A `with` block in which it needs the parameters for itself alone."""
        return Turn.__new__(Turn, self, True)

    def check_free(self):
        """Refuse what must not happen while anybody is at work, the caller included."""
        while self.depth or self.reading or self.writing:
            self.refuse("this network is in use")

    def __enter__(self):
        while self.writing and not self.is_mine():
            self.refuse("this network is being trained by another thread")
        self.reading += 1

    def __exit__(self, kind, error, trace):     # *error would be a tuple, which takes memory
        self.reading -= self.reading > 0

    cdef int begin(self, bint writes) except -1:
        """Let this thread train; with `writes` it needs the parameters for itself alone."""
        while self.depth and not self.is_mine() or self.writing or writes and self.reading:
            self.refuse("this network is in use by another thread")
        self.owner = PyThread_get_thread_ident()
        self.depth += 1
        self.writing = writes
        return 0

    cdef void end(self, bint writes) noexcept:
        """After `begin`, with the same argument."""
        self.depth -= self.depth > 0
        if writes:
            self.writing = False

    cdef int check_reading(self) except -1:
        """Refuse to read, where the caller cannot be the one who writes."""
        while self.writing:
            self.refuse("this network is being trained by another thread")
        return 0

    cdef inline bint is_mine(self) noexcept:
        """Whether this thread trains."""
        return self.depth and self.owner == <unsigned long>PyThread_get_thread_ident()

    cdef int refuse(self, str why) except -1:
        """Raise the error; in the child of a fork forget once what threads did that it lacks."""
        if self.process == getpid():
            raise RuntimeError(why)
        self.process = getpid()
        self.reading = 0
        if not self.is_mine():
            self.depth, self.writing = 0, False
        return 0


@cython.freelist(8)
cdef class Turn:
    """The time in which a thread trains: see `Use`."""

    cdef Use use
    cdef bint writes

    def __cinit__(self, Use use, bint writes):
        self.use, self.writes = use, writes

    def __enter__(self):
        self.use.begin(self.writes)

    def __exit__(self, kind, error, trace):
        self.use.end(self.writes)


cdef class Engine:
    """A network's operations over its parameters.

    Parameters
    ----------
    operations : list of dict
        `kind`, `n_in`, `n_out`; for dense and layer_norm `weight`, `bias` (where they begin, or
        -1) and `trains` (an array of one uint8); for scale `factor`; for activation `function`
        (its name) and `factor`; for layer_norm eps and for dropout p as `factor`; for dropout
        `seen` (an array of two uint64: entries so far, and the seed). Every "remember" has its
        "add", and they nest.
    parameters, gradients : ndarray
        Contiguous vectors of one size and dtype.
    flattens : bool
        Inputs of more than 2 dimensions are taken as rows.
    packs : bool
        Keep a packed copy of the weights for prediction, made now.
    use : Use
        Of the network around this one.

    `inputs` and `predict` check their arguments. Those of the other methods were checked by the
    caller: inputs as by `inputs`, labels vectors of int64, target rows matrices.
    """

    cdef Operation *operations
    cdef readonly Py_ssize_t n_in, n_out
    cdef Py_ssize_t n_operations, columns, predict_columns, widest, largest, n_scratch
    cdef Py_ssize_t gradient_places[2]
    cdef double work                # multiplications per row, forward
    cdef bint has_wide              # layers that are cut along their weights
    cdef const KernelTable *kernels
    cdef Py_ssize_t itemsize
    cdef readonly object dtype
    cdef list described
    cdef Py_ssize_t first_row       # of the block of a batch that is worked on
    cdef int type_number
    cdef bint flattens
    cdef Arena training, predicting, shuffled
    # Each array with where it begins, as functions without the GIL cannot ask it.
    cdef cnp.ndarray parameters, gradients, packed
    cdef cnp.ndarray scratch        # rows of dW on their way into an update
    cdef cnp.ndarray labels         # of a batch, checked
    cdef cnp.ndarray targets        # of a batch, as rows of weights
    cdef cnp.ndarray weights        # of a shuffled batch's samples
    cdef char *parameters_start
    cdef char *gradients_start
    cdef char *packed_start
    cdef bint frozen                # the packed weights are those for prediction
    cdef char *scratch_start
    cdef char *arena_start          # of the arena for training
    cdef Py_ssize_t *labels_start
    cdef char *targets_start
    cdef char *weights_start
    cdef Py_ssize_t rows            # that it has room for
    cdef cnp.ndarray gathered       # gradients of batches without an update yet, as sums,
    cdef char *gathered_start
    cdef readonly bint pending      # if there are any,
    cdef double pending_total       # and what they are to be divided by
    cdef Py_ssize_t size            # of the parameters
    cdef readonly Use use
    cdef public int n_threads       # that may work at a time; 0: as many as the process may
    cdef public int forced          # so many, whatever is measured; for tests
    cdef int threads                # in training, now
    cdef Tuner tuners[PURPOSES][WORK_CLASSES]

    def __dealloc__(self):
        free(self.operations)

    def __cinit__(self, list operations not None, cnp.ndarray parameters not None,
                  cnp.ndarray gradients not None, bint flattens=False, bint packs=False,
                  Use use=None):
        if not operations:
            raise ValueError("there must be at least 1 operation, got 0")
        self.threads = 1
        self.flattens = flattens
        self.use = Use() if use is None else use
        self.dtype = parameters.dtype
        self.type_number = cnp.PyArray_TYPE(parameters)
        self.kernels = kernels_of(self.type_number)
        self.itemsize = parameters.itemsize
        self.parameters, self.gradients = parameters, gradients
        self.parameters_start = cnp.PyArray_BYTES(parameters)
        self.gradients_start = cnp.PyArray_BYTES(gradients)
        self.size = cnp.PyArray_SIZE(parameters)
        self.n_operations = len(operations)
        self.operations = <Operation *>calloc(self.n_operations, sizeof(Operation))
        if self.operations == NULL:
            raise MemoryError()
        self.n_in, self.n_out = operations[0]["n_in"], operations[len(operations) - 1]["n_out"]
        width = self.n_in
        for i, described in enumerate(operations):
            if described["n_in"] != width:
                raise ValueError(f"operation {i} must take {width} features, not "
                                 f"{described['n_in']}")
            width, dense = int(described["n_out"]), described["kind"] == "dense"
            for name, entries in (
                    ("weight", width * int(described["n_in"]) if dense else width),
                    ("bias", width)):
                place = described.get(name, NOWHERE)
                if not 0 <= place <= self.size - entries and (
                        place != NOWHERE or dense and name == "weight"):
                    raise ValueError(f"the {name} of operation {i} lies outside of parameters")
            self.operations[i].kind = KINDS[described["kind"]]
            self.operations[i].n_in = described["n_in"]
            self.operations[i].n_out = described["n_out"]
            self.operations[i].weight = described.get("weight", NOWHERE)
            self.operations[i].bias = described.get("bias", NOWHERE)
            self.operations[i].factor = described.get("factor", 1.0)
            self.operations[i].function = ACTIVATIONS[described.get("function", "tanh")]
            if "seen" in described:
                self.operations[i].seen = <uint64_t *>cnp.PyArray_DATA(described["seen"])
            if "trains" in described:
                self.operations[i].trains = cnp.PyArray_BYTES(described["trains"])
        self.described = operations     # keeps these arrays alive
        self._fuse()
        self._place()
        self.frozen = packs
        if packs:
            self._reserve_packed()
            self.pack()

    cdef int _fuse(self) except -1:
        """Let a dense operation take the ReLU behind it along."""
        cdef Operation *a = self.operations
        cdef Py_ssize_t i, kept = 0
        for i in range(self.n_operations):
            if kept and a[i].kind == RELU and a[kept - 1].kind == DENSE and not a[kept - 1].relu:
                a[kept - 1].relu = a[kept - 1].masks = True
                continue
            a[kept] = a[i]
            if kept and a[kept].kind == DENSE and a[kept - 1].relu:
                a[kept].after_relu, a[kept - 1].masks = True, False
            kept += 1
        self.n_operations = kept
        return 0

    cdef int _place(self) except -1:
        """Give every value and gradient its place."""
        cdef Operation *op
        cdef Py_ssize_t i, x = INPUT, from_ = INPUT, turn = 0
        self.widest = max([self.operations[i].n_out for i in range(self.n_operations)])
        self.widest = max(self.widest, self.n_in)
        remembered = []
        kept = 2                            # places of predictions, each as wide as the widest
        deepest = 0
        columns = 0
        for i in range(self.n_operations):
            op = &self.operations[i]
            op.x, op.from_ = x, from_
            if op.kind == DENSE:
                self.work += <double>op.n_in * op.n_out
                self.largest = max(self.largest, op.n_in * op.n_out)
                self.has_wide |= is_wide(op, 1, op.n_out)      # for some number of rows
                if op.n_in * op.n_out >= MANY_PARAMETERS:
                    self.n_scratch = max(self.n_scratch, min(FEW_ROWS, op.n_in) * op.n_out)
            else:
                self.work += op.n_out
            if op.kind == REMEMBER:
                # In prediction the value moves to a place of its own while others alternate.
                remembered.append((x, kept + len(remembered)))
                deepest = max(deepest, len(remembered))
                op.aside = len(remembered) - 1
                op.y = x
                op.to = (kept + len(remembered) - 1) * self.widest
                from_ = op.to
                continue
            if op.kind == ADD:
                op.skip, place = remembered.pop()
                op.skip_from = place * self.widest
                op.aside = len(remembered)
            if op.kind == LAYER_NORM:
                op.stats = columns
                columns += 2 * sizeof(double) // self.itemsize
            op.y = columns
            columns += op.n_out
            x = op.y
            if op.kind == DROPOUT:      # does nothing in prediction
                op.to = from_
                continue
            op.to = turn * self.widest
            turn = 1 - turn
            from_ = op.to
        i = self.n_operations - 1
        while self.operations[i].kind == DROPOUT:
            i -= 1
        self.operations[i].to = OUTPUT
        self.predict_columns = (2 + deepest) * self.widest
        for i in range(self.n_operations):
            self.operations[i].stats_from = self.predict_columns
        self.predict_columns += 2 * sizeof(double) // self.itemsize
        # Each of the two places for gradients is as wide as the widest that comes there.
        widths = [self.n_out, 0]
        turn = 0
        for i in range(self.n_operations - 1, -1, -1):
            op = &self.operations[i]
            if op.kind != ADD:
                turn = 1 - turn
                if op.x != INPUT or op.kind not in (DENSE, LAYER_NORM):
                    widths[turn] = max(widths[turn], op.n_in)
        self.gradient_places = [columns, columns + widths[0]]
        columns += widths[0] + widths[1]
        for i in range(self.n_operations):
            op = &self.operations[i]
            if op.kind in (ADD, REMEMBER):
                op.aside = columns + op.aside * self.widest
        self.columns = columns + deepest * self.widest
        self.scratch = aligned_zeros(self.n_scratch, self.dtype)
        self.scratch_start = cnp.PyArray_BYTES(self.scratch)
        return 0

    cdef int _reserve_packed(self) except -1:
        cdef Operation *op
        cdef Py_ssize_t i, size = 0
        for i in range(self.n_operations):
            op = &self.operations[i]
            if op.kind == DENSE:
                op.packed = size
                size += padded(self.kernels.pack_weights(NULL, NULL, op.n_in, op.n_out), self.dtype)
        self.packed = aligned_zeros(size, self.dtype)
        self.packed_start = cnp.PyArray_BYTES(self.packed)
        return 0

    cdef void pack(self) noexcept nogil:
        """Pack all weights, as they are now."""
        cdef Packing p = Packing(
            self.kernels, self.operations, self.parameters_start, self.packed_start, self.itemsize)
        run(part_packed, &p, self.n_operations, self.threads)

    # ---- Where things are ----------------------------------------------------------------------

    cdef inline real *entry(self, char *start, Py_ssize_t index) noexcept nogil:
        """NULL where there is none."""
        if start == NULL or index == NOWHERE:
            return NULL
        return <real *>(start + index * self.itemsize)

    cdef inline real *parameter(self, Py_ssize_t index) noexcept nogil:
        return self.entry(self.parameters_start, index)

    cdef inline real *gradient(self, Py_ssize_t index) noexcept nogil:
        return self.entry(self.gradients_start, index)

    cdef inline real *at(
            self, Py_ssize_t place, char *arena, Py_ssize_t rows, const real *x,
            real *y) noexcept nogil:
        if place == INPUT:
            return <real *>x
        if place == OUTPUT:
            return y
        return <real *>(arena + place * rows * self.itemsize)

    cdef inline int most_threads(self, double multiplications) noexcept nogil:
        """How many threads may do some work: 1 if that is too little to find out what pays."""
        if self.forced:
            return self.forced
        if multiplications < SHARED_WORK:
            return 1
        return allowed() if self.n_threads == 0 else min(self.n_threads, allowed())

    cdef inline Tuner *tuner(
            self, Purpose purpose, double multiplications, int most) noexcept nogil:
        """The tuner of work like this, or NULL where there is nothing to choose."""
        if most == 1 or self.forced:
            return NULL
        return tuner_of(self.tuners[<int>purpose], multiplications)

    def reserve(self, Py_ssize_t batch_size, int threads=1):
        """Make room for training batches of up to so many rows, on up to so many threads."""
        cdef Py_ssize_t rows = min(batch_size, self.most_rows())    # fewer may be taken as a whole
        if self.labels is None or cnp.PyArray_DIM(self.labels, 0) < batch_size:
            self.labels = np.zeros(batch_size, np.intp)
            self.labels_start = <Py_ssize_t *>cnp.PyArray_DATA(self.labels)
        if self.rows < rows:
            self.training = None        # not both at a time
            self.rows = 0
            self.training = Arena(rows, self.columns, self.dtype, self.n_operations)
            self.arena_start = self.training.start
            self.rows = self.training.rows
        if self.training_block(batch_size) < batch_size and self.packed is None:
            self._reserve_packed()
        if cnp.PyArray_DIM(self.scratch, 0) < self.n_scratch * most_parts(threads):
            self.scratch = aligned_zeros(self.n_scratch * most_parts(threads), self.dtype)
            self.scratch_start = cnp.PyArray_BYTES(self.scratch)

    cdef int reserve_targets(self, Py_ssize_t rows, bint weighs) except -1:
        """Make room for targets as rows of weights, and for the weights of shuffled samples."""
        if weighs and (self.weights is None or cnp.PyArray_DIM(self.weights, 0) < rows):
            targets = aligned_zeros(rows * self.n_out, self.dtype)
            weights = aligned_zeros(rows, self.dtype)       # both, or neither for want of memory
            if self.weights is not None and cnp.PyArray_DIM(self.weights, 0) >= rows:
                return 0                    # another thread was quicker
            self.targets, self.weights = targets, weights
            self.targets_start = cnp.PyArray_BYTES(self.targets)
            self.weights_start = cnp.PyArray_BYTES(self.weights)
        return 0

    cdef int reserve_gathered(self) except -1:
        """Make room for gradients that wait."""
        if self.gathered is None:
            self.gathered = aligned_zeros(self.size + SPARE, self.dtype)
            self.gathered_start = cnp.PyArray_BYTES(self.gathered)
        return 0

    def poison(self, value):
        """Overwrite what is kept between calls and has no meaning then; for tests."""
        for arena in (self.training, self.predicting, self.shuffled):
            if arena is not None:
                arena.memory.fill(value)
        for array in (self.scratch, self.targets, self.weights,
                      None if self.pending else self.gathered):
            if array is not None:
                array.fill(value)
        if self.packed is not None and not self.frozen:
            self.packed.fill(value)

    # ---- Forward, and its mirror ---------------------------------------------------------------

    cdef void forward(self, const real *x, Py_ssize_t n, bint packed) noexcept nogil:
        """Every value, in the training arena; the last one has the scores."""
        cdef Operation *op
        cdef Work *works = self.training.works
        cdef Py_ssize_t i, found = 0
        for i in range(self.n_operations):
            op = &self.operations[i]
            if op.kind != REMEMBER:
                self.prepare(&works[found], op, self.here(op.x, x), self.here(op.skip, x),
                             self.here(op.y, x), self.here(op.stats, x), n, packed)
                found += 1
        through(works, found, n, self.threads, False)

    cdef int backward(
            self, const real *x, Py_ssize_t n, bint add, bint keep, bint wait, const Update *u,
            Steps steps) noexcept nogil:
        """From the gradient by the scores to those of all parameters, or add to these.

        Large weights are updated on the way, unless gradients are kept or have to wait; returns
        whether these are finite then.
        """
        cdef Operation *op
        cdef Py_ssize_t i, turn = 0
        cdef real *dy
        cdef real *dx
        cdef bint finite = True, wanted, at_once
        cdef Py_ssize_t row
        cdef Copy copy
        cdef Work w
        for i in range(self.n_operations - 1, -1, -1):
            op = &self.operations[i]
            dy = self.here(self.gradient_places[turn], x)
            dx = self.here(self.gradient_places[1 - turn], x)
            if op.kind == ADD:
                row = op.n_out * self.itemsize
                copy = Copy(<const char *>dy, <char *>self.here(op.aside, x), NULL, row, n, n)
                copy_rows(&copy, op.n_out, self.threads)
                continue
            w.kernels, w.op, w.itemsize, w.n = self.kernels, op, self.itemsize, n
            w.x, w.y, w.skip = self.here(op.x, x), self.here(op.y, x), self.here(op.aside, x)
            w.dy, w.dx, w.add = dy, dx, add
            w.weight = self.parameter(op.weight)
            w.first_entry = op.first + <uint64_t>(self.first_row * op.n_out)
            if op.kind == LAYER_NORM:           # its gradients are sums over rows
                w.stats, w.dx = self.here(op.stats, x), NULL if op.x == INPUT else dx
                w.gradient, w.bias = self.gradient(op.weight), self.gradient(op.bias)
                norm_back(&w, self.threads)
            elif op.kind == DENSE:
                if op.masks:
                    mask_back(&w, self.threads)
                if op.x == INPUT:
                    w.dx = NULL
                wanted = keep or op.trains[0]
                at_once = not keep and not wait and self.updates_at_once(op, n)
                if w.dx != NULL and (n > 1 or not at_once):
                    back(&w, self.threads)
                w.bias = self.gradient(op.bias) if wanted else NULL
                if at_once:
                    finite &= self.weights_by_update(&w, u, steps)
                elif wanted:
                    w.gradient = self.gradient(op.weight)
                    weights_back(&w, self.threads)
            else:
                back(&w, self.threads)
            turn = 1 - turn
        return finite

    cdef inline bint weights_by_update(self, Work *w, const Update *u, Steps steps) noexcept nogil:
        """A layer's weights by their gradient; returns whether they are finite then."""
        cdef bint cut_up
        w.gradient, w.u, w.broken = self.entry(self.scratch_start, 0), u, False
        w.states[0] = self.entry(steps.starts[0], w.op.weight)
        w.states[1] = self.entry(steps.starts[1], w.op.weight)
        w.states[2] = self.entry(steps.starts[2], w.op.weight)
        w.across, w.width = 1, w.op.n_out
        cut_up = cuts(w, w.op.n_in, ROWS_APART, self.threads)
        w.together = ROWS_APART
        if w.n > 1:
            w.together *= evenly((w.part + ROWS_APART - 1) // ROWS_APART, FEW_ROWS // ROWS_APART)
        if cut_up:
            run(part_of_weights_updated, w, parts_of_weights(w), self.threads)
            return not w.broken
        bias_backward(w)
        return weights_updated(w, 0, w.op.n_in)

    cdef inline real *here(self, Py_ssize_t place, const real *x) noexcept nogil:
        """A place in the training arena."""
        return self.at(place, self.arena_start, self.rows, x, NULL)

    cdef inline void prepare(
            self, Work *w, Operation *op, const real *x, const real *skip, real *y, real *stats,
            Py_ssize_t n, bint packed) noexcept nogil:
        """What there is to know for one operation forward, with whole rows side by side."""
        w.x_row, w.skip_row, w.y_row = op.n_in, op.n_out, op.n_out
        w.kernels, w.op, w.itemsize, w.n = self.kernels, op, self.itemsize, n
        w.x, w.skip, w.y, w.stats = x, skip, y, stats
        w.weight, w.bias = self.parameter(op.weight), self.parameter(op.bias)
        w.packed = packed
        if packed and op.kind == DENSE:
            w.weight = self.entry(self.packed_start, op.packed)
        w.first_entry = op.first + <uint64_t>(self.first_row * op.n_out)

    cdef void predict_rows(
            self, Arena arena, const real *x, real *y, Py_ssize_t n,
            int threads) noexcept nogil:
        """Only the last value, through an arena of its own."""
        cdef Operation *op
        cdef Py_ssize_t i, found = 0, rows = arena.rows
        cdef char *start = arena.start
        for i in range(self.n_operations):
            op = &self.operations[i]
            if op.kind == DROPOUT:
                continue
            self.prepare(&arena.works[found], op, self.at(op.from_, start, rows, x, y),
                         self.at(op.skip_from, start, rows, x, y),
                         self.at(op.to, start, rows, x, y),
                         self.at(op.stats_from, start, rows, x, y), n, self.frozen)
            # Places are used again, for values of other widths: each part has some of them, or
            # operations take turns.
            if not self.has_wide and op.from_ >= 0:
                arena.works[found].x_row = self.widest
            if not self.has_wide and op.to >= 0:
                arena.works[found].y_row = self.widest
            if not self.has_wide:
                arena.works[found].skip_row = self.widest
            found += 1
        through(arena.works, found, n, threads, self.has_wide)

    # ---- A step --------------------------------------------------------------------------------

    cdef double weigh(self, const Batch *b, Objective o) noexcept nogil:
        """What a mean over a batch divides by; makes rows of weights of targets that need it."""
        if o.loss == ENTRIES:
            return self.n_out * (b.n if b.weights == NULL
                                 else self.kernels.sum_of_weights(b.weights, b.n))
        if not self.weighs(b, o):
            return b.n
        return self.kernels.target_rows(
            b.labels, b.rows, b.weights, <const real *>o.class_weights_start,
            <real *>self.targets_start, b.n, self.n_out, NOWHERE, o.smoothing)

    cdef inline bint weighs(self, const Batch *b, Objective o) noexcept nogil:
        """Whether the loss takes the rows of weights that `weigh` makes."""
        return o.loss != ENTRIES and (o.takes_rows or b.weights != NULL)

    cdef double loss_of(
            self, Objective o, const real *scores, const Batch *b, Py_ssize_t first,
            Py_ssize_t n, real *gradient, double total) noexcept nogil:
        """Sum of the losses of n rows, from `first` on, and unless NULL its gradient / total."""
        cdef const Py_ssize_t *labels = b.labels + first if b.labels != NULL else NULL
        cdef const real *T = b.rows
        cdef const real *weights = b.weights
        if self.weighs(b, o):
            labels, T = NULL, <const real *>self.targets_start
        if T != NULL:
            T = self.rows_on(T, first, self.n_out)
        if weights != NULL:
            weights = self.rows_on(weights, first, 1)
        if o.loss == SOFTMAX_CROSS_ENTROPY:
            return self.kernels.softmax_cross_entropy(
                scores, labels, T, gradient, NULL, n, self.n_out, total)
        if o.loss == CROSS_ENTROPY:
            return self.kernels.cross_entropy(scores, labels, T, gradient, n, self.n_out, total)
        if o.loss == NEGATIVE_LOG_LIKELIHOOD:
            return self.kernels.negative_log_likelihood(
                scores, T, gradient, NULL, n, self.n_out, total)
        if weights == NULL and o.positive_start == NULL:    # one long row
            return self.kernels.entry_losses(
                scores, T, NULL, False, NULL, gradient, NULL, 1, n * self.n_out, o.of_entries,
                total, o.delta)
        return self.kernels.entry_losses(
            scores, T, weights, False, <const real *>o.positive_start, gradient, NULL,
            n, self.n_out, o.of_entries, total, o.delta)

    cdef inline bint updates_at_once(self, Operation *op, Py_ssize_t n) noexcept nogil:
        """Whether the update of a dense layer's weights does not wait for the others."""
        return op.trains[0] and (
            n == 1 and op.n_out >= WIDE
            or n <= SMALL_BATCH and op.n_in * op.n_out >= MANY_PARAMETERS)

    cdef bint update(
            self, Py_ssize_t n, bint keep, const Update *u, Steps steps) noexcept nogil:
        """Every parameter that was not updated on the way; returns whether these are finite."""
        cdef Operation *op
        cdef Py_ssize_t i, size
        cdef bint finite = True
        cdef bint together = keep or n > SMALL_BATCH or n > 1 and self.n_scratch == 0
        cdef Update of_vectors = u[0]
        if steps.spares_vectors and (u.decay != 0 or u.shrink != 1):
            of_vectors.decay, of_vectors.shrink = 0, 1
            of_vectors = plain_or_not(of_vectors)
            together = False
        for i in range(self.n_operations):
            if self.operations[i].trains != NULL:
                together &= self.operations[i].trains[0] != 0
        if together:
            return self.update_some(0, self.size, u, steps)
        for i in range(self.n_operations):
            op = &self.operations[i]
            if op.trains == NULL or op.trains[0] == 0:
                continue
            if op.kind == DENSE:
                size = op.n_in * op.n_out
                if keep or not self.updates_at_once(op, n):
                    finite &= self.update_some(op.weight, size, u, steps)
            elif op.weight != NOWHERE:
                finite &= self.update_some(op.weight, op.n_out, &of_vectors, steps)
            if op.bias != NOWHERE:
                finite &= self.update_some(op.bias, op.n_out, &of_vectors, steps)
        return finite

    cdef bint update_some(
            self, Py_ssize_t first, Py_ssize_t size, const Update *u, Steps steps) noexcept nogil:
        cdef Work w
        w.kernels, w.itemsize, w.u, w.broken = self.kernels, self.itemsize, u, False
        w.gradient, w.weight = self.gradient(first), self.parameter(first)
        w.states[0] = self.entry(steps.starts[0], first)
        w.states[1] = self.entry(steps.starts[1], first)
        w.states[2] = self.entry(steps.starts[2], first)
        w.size = size
        if not cut(PER_ENTRY * <double>size, size, ENTRIES_APART, self.threads, &w.part):
            return entries_updated(&w, 0, size)
        run(part_updated, &w, (size + w.part - 1) // w.part, self.threads)
        return not w.broken

    cdef double sum_of_squares(self, bint of_weights) noexcept nogil:
        """Of the weights of all dense layers, or of all gradients that are in use."""
        cdef Operation *op
        cdef Py_ssize_t i
        cdef double total = 0
        for i in range(self.n_operations):
            op = &self.operations[i]
            if op.kind == DENSE and of_weights:
                total += self.kernels.sum_of_squares(self.parameter(op.weight), op.n_in * op.n_out)
            if of_weights or op.trains == NULL or op.trains[0] == 0:
                continue
            if op.weight != NOWHERE:
                total += self.kernels.sum_of_squares(
                    self.gradient(op.weight), op.n_in * op.n_out if op.kind == DENSE else op.n_out)
            if op.bias != NOWHERE:
                total += self.kernels.sum_of_squares(self.gradient(op.bias), op.n_out)
        return total

    cdef Outcome step(
            self, const Batch *b, Objective o, bint keep, bint update, Update u, Steps steps,
            double *value, double *total, Py_ssize_t *correct, char *to) noexcept nogil:
        """Forward, loss, backward, update; adds the number of right answers, unless NULL.

        Gives the loss and what it was divided by, and copies the scores to `to`, unless NULL. A
        large batch is taken in blocks of rows, whose gradients are added up, with weights that are
        packed once for all of them.

        Without `update` gradients wait elsewhere, as sums, and those of the next batch are added to
        them; of all layers, as one may begin to train meanwhile.
        """
        cdef Py_ssize_t first = 0, some, block = self.training_block(b.n)
        cdef const real *x = b.x
        cdef const real *scores
        cdef bint finite = True, gathers = self.pending or not update
        cdef bint wait = block < b.n or isfinite(steps.clip_norm)
        cdef double divisor, scale
        value[0], total[0] = 0, self.weigh(b, o)
        if not o.mean:
            total[0] = 1
        divisor = total[0] if total[0] != 0 else 1      # without any weight, the mean is 0
        scale = 1 if gathers else divisor
        if o.penalty != 0:
            value[0] = 0.5 * o.penalty * self.sum_of_squares(True) / divisor
        if block < b.n:
            self.pack()
        self.count_entries(b.n)
        while first < b.n:
            some = min(b.n - first, block)
            self.first_row = first
            scores = self.here(self.operations[self.n_operations - 1].y, x)
            self.forward(x, some, block < b.n)
            if (o.loss == CROSS_ENTROPY
                    and self.kernels.first_bad_probability(scores, some * self.n_out) >= 0):
                return BAD_PROBABILITY
            value[0] += self.loss_of(o, scores, b, first, some,
                                     self.here(self.gradient_places[0], x), scale) / divisor
            if not isfinite(value[0]):
                return BAD_LOSS
            if correct != NULL:
                correct[0] += self.right_answers(o, scores, b, first, some)
            if to != NULL:
                memcpy(to + first * self.n_out * self.itemsize, scores,
                       some * self.n_out * self.itemsize)
            finite &= self.backward(x, some, first > 0, keep or gathers, wait, &u, steps)
            first += some
            x = self.rows_on(x, some, self.n_in)
        if gathers:
            if self.pending:
                self.kernels.add_forward(
                    self.entry(self.gathered_start, 0), self.gradient(0),
                    self.entry(self.gathered_start, 0), self.size)
                self.pending_total += total[0]
            else:
                memcpy(self.gathered_start, self.gradients_start, self.size * self.itemsize)
                self.pending_total = total[0]
            self.pending = True
            if not update:
                return FINE
            return self.settle(o, keep, u, steps)
        return self.finish(b.n, finite, keep, wait, u, steps)

    cdef Outcome settle(self, Objective o, bint keep, Update u, Steps steps) noexcept nogil:
        """Update by the gradients of all batches that wait."""
        cdef double divisor = self.pending_total if o.mean and self.pending_total != 0 else 1
        self.pending = False
        self.kernels.scale(self.entry(self.gathered_start, 0), self.gradient(0), self.size,
                           1 / divisor)
        return self.finish(1, True, keep, True, u, steps)

    cdef Outcome finish(
            self, Py_ssize_t n, bint finite, bint keep, bint wait, Update u,
            Steps steps) noexcept nogil:
        """The part of a step that begins when all gradients of its n rows are known."""
        cdef double norm
        if keep and self.kernels.first_not_finite(
                self.gradient(0), self.size) >= 0:
            return BAD_GRADIENT
        if isfinite(steps.clip_norm):
            norm = sqrt(self.sum_of_squares(False))
            if steps.clip_norm < norm + 1e-6:
                u.rule = u.rule if u.rule != PLAIN_SGD else SGD
                u.scale = steps.clip_norm / (norm + 1e-6)
        finite &= self.update(n, keep or wait, &u, steps)
        steps.taken[0] += 1
        return FINE if finite else BAD_PARAMETER

    cdef Py_ssize_t right_answers(
            self, Objective o, const real *scores, const Batch *b, Py_ssize_t first,
            Py_ssize_t n) noexcept nogil:
        """In n rows, from `first` on; of losses of entries each entry is an answer."""
        cdef const real *T = NULL
        if b.rows != NULL:
            T = self.rows_on(b.rows, first, self.n_out)
        if o.loss == ENTRIES:
            return self.kernels.count_same_side(scores, T, n * self.n_out)
        return self.kernels.count_correct(
            scores, b.labels + first if b.labels != NULL else NULL, T, n, self.n_out, 1)

    cdef void count_entries(self, Py_ssize_t n) noexcept nogil:
        """Tell dropout where this step's entries stand among all that it has seen."""
        cdef Operation *op
        cdef Py_ssize_t i
        for i in range(self.n_operations):
            op = &self.operations[i]
            if op.kind == DROPOUT:
                op.first = op.seen[0]
                op.seen[0] += <uint64_t>(n * op.n_out)

    cdef inline const real *rows_on(
            self, const real *rows, Py_ssize_t n, Py_ssize_t columns) noexcept nogil:
        return <const real *>(<const char *>rows + n * columns * self.itemsize)

    cdef bint take_labels(
            self, const Py_ssize_t *labels, const Py_ssize_t *order, Py_ssize_t *to,
            Py_ssize_t n, Py_ssize_t ignored) noexcept nogil:
        """Copy a batch's labels, and look at each: they are indices, and the caller's to change.

        Those that are ignored become NOWHERE.
        """
        cdef Py_ssize_t i, label
        for i in range(n):
            label = labels[order[i] if order != NULL else i]
            if label == ignored and ignored != PY_SSIZE_T_MIN:
                label = NOWHERE
            elif label < 0 or label >= self.n_out:
                return False
            to[i] = label
        return True

    cdef const real *gather(
            self, const char *rows, Py_ssize_t columns, char *to,
            const Py_ssize_t *order, Py_ssize_t n) noexcept nogil:
        """Copy the rows of a batch, in their order."""
        cdef Copy c = Copy(rows, to, order, columns * self.itemsize, n, n)
        copy_rows(&c, columns, self.threads)
        return <const real *>to

    # ---- What Python calls ---------------------------------------------------------------------

    def train(self, cnp.ndarray x, cnp.ndarray target, cnp.ndarray sample_weight,
              Objective objective, Py_ssize_t batch_size, cnp.ndarray order, bint accuracy,
              bint keep_gradients, Steps steps, bint update=True, cnp.ndarray scores=None):
        """Take one step per batch, and return `(outcome, step, last, total, shares, correct)`.

        Parameters
        ----------
        x : ndarray (n, n_in)
        target : ndarray (n,) of int64, or (n, n_out)
        sample_weight : ndarray (n,) or None
            Finite and at least 0.
        objective : Objective
        batch_size : int
            The last batch has what is left.
        order : ndarray of int64, or None
            Which rows to take, one after the other; None: all.
        accuracy : bool
            Count the rows that are right, before each update.
        keep_gradients : bool
            Leave all gradients in their buffer, and apply none that is not finite.
        steps : Steps
        update : bool
            False: gradients wait, and those of the next calls are added to them, until one updates
            or `apply_pending` does; the mean is that of all of them.
        scores : ndarray (rows, n_out), optional
            Gets the scores that each row had, before the update, in the order of the rows.

        Returns
        -------
        outcome : str
            "fine", or why it ended early: "label", "probability", "loss", "gradient" or
            "parameter". In all but "parameter" the last step was not applied.
        step : int
            The number of the last step, from 1.
        last : float
            The loss of the last step.
        total, shares : float
            Sum of the losses of all steps and of what a mean divides by: weights of samples, or
            samples where the loss is a sum.
        correct : int

        Raises
        ------
        RuntimeError
            The network is in use by another thread.
        ValueError
            Rows of different numbers or widths.
        MemoryError
        BaseException
            Whatever the handler of a signal raises, such as KeyboardInterrupt; all steps that were
            begun are finished then.
        """
        cdef Py_ssize_t n = cnp.PyArray_DIM(x if order is None else order, 0)
        cdef Py_ssize_t first = 0, some, step = 0
        cdef Py_ssize_t row = self.n_in * self.itemsize, target_row = self.n_out * self.itemsize
        cdef Py_ssize_t correct = 0
        cdef char *x_rows = NULL
        cdef char *target_rows = NULL
        cdef bint has_labels = cnp.PyArray_NDIM(target) == 1
        cdef const char *rows = cnp.PyArray_BYTES(x)
        cdef const char *targets = cnp.PyArray_BYTES(target)
        cdef const Py_ssize_t *sequence = NULL
        cdef const Py_ssize_t *at = NULL
        cdef const char *weights = NULL
        cdef char *to = NULL if scores is None else cnp.PyArray_BYTES(scores)
        cdef Batch b = Batch(NULL, NULL, NULL, NULL, 0)
        cdef double total = 0, value = 0, work = 0, per_step, share = 0, shares = 0
        cdef Outcome outcome = FINE
        cdef Caller caller
        cdef Tuner *tuner = NULL
        cdef int most
        cdef double begin = 0, end
        steps.check(self.type_number)
        self.check_rows(x, target, sample_weight)
        self.use.begin(True)
        try:
            if order is not None:
                sequence = <const Py_ssize_t *>cnp.PyArray_DATA(order)
            batch_size = min(batch_size, n)
            work = 3 * self.work * batch_size
            most = self.threads = self.most_threads(work)
            tuner = self.tuner(TRAINING, work, most)
            self.reserve(batch_size, most)
            if sample_weight is not None:
                weights = cnp.PyArray_BYTES(sample_weight)
            self.reserve_targets(batch_size, sample_weight is not None or objective.takes_rows)
            if not update:
                self.reserve_gathered()
            if sequence != NULL:
                if self.shuffled is None or self.shuffled.rows < batch_size:
                    self.shuffled = Arena(batch_size, self.n_in + self.n_out, self.dtype)
                x_rows = self.shuffled.start
                target_rows = x_rows + self.shuffled.rows * row
            per_step = work + WORK_PER_OPERATION * (4 + self.n_operations)
            work = 0
            caller = enter(per_step * (n // batch_size))
            while first < n:
                some = min(n - first, batch_size)
                step += 1
                b.n = some
                if tuner != NULL:
                    self.threads = threads_for(tuner, most, per_step >= SURE_WORK)
                    begin = seconds_now()
                b.x = <const real *>(rows + first * row)
                if sequence != NULL:
                    at = sequence + first
                    b.x = self.gather(rows, self.n_in, x_rows, at, some)
                if has_labels:
                    b.labels = self.labels_start
                    if not self.take_labels(
                            <const Py_ssize_t *>targets + (0 if at != NULL else first),
                            at, self.labels_start, some, objective.ignored):
                        outcome = BAD_LABEL
                        break
                elif at != NULL:
                    b.rows = self.gather(targets, self.n_out, target_rows, at, some)
                else:
                    b.rows = <const real *>(targets + first * target_row)
                if weights != NULL and at != NULL:
                    b.weights = self.gather(weights, 1, self.weights_start, at, some)
                elif weights != NULL:
                    b.weights = <const real *>(weights + first * self.itemsize)
                outcome = self.step(&b, objective, keep_gradients, update, steps.at(step - 1),
                                    steps, &value, &share, &correct if accuracy else NULL,
                                    to + first * target_row if to != NULL else NULL)
                if outcome != FINE:
                    if outcome != BAD_PARAMETER:        # not applied: nothing was seen of it
                        self.count_entries(-some)
                    break
                if tuner != NULL and some == batch_size:
                    end = seconds_now()
                    took(tuner, end - begin, 1, end)
                if objective.by_rows and share != 0:        # a batch without any weight is none
                    share = some
                total += value * share
                shares += share if objective.mean or objective.by_rows else some
                first += some
                work += per_step
                if work > WORK_BETWEEN_SIGNALS and first < n:
                    work = 0
                    leave(caller)
                    PyErr_CheckSignals()
                    caller = enter(per_step * (n // batch_size))
            leave(caller)
            if outcome != FINE:
                self.pending = False
        finally:
            self.use.end(True)
        return OUTCOMES[outcome], step, value, total, shares, correct

    def apply_pending(self, Objective objective, bint keep_gradients, Steps steps):
        """Update by the gradients that wait, if there are any; return the outcome.

        Raises
        ------
        RuntimeError
            The network is in use by another thread.
        """
        cdef Outcome outcome = FINE
        cdef Caller caller
        cdef Tuner *tuner
        cdef int most
        cdef double work, begin, end
        if not self.pending:
            return OUTCOMES[FINE]
        steps.check(self.type_number)
        self.use.begin(True)
        work = PER_ENTRY * <double>self.size
        most = self.most_threads(work)
        tuner = self.tuner(UPDATING, work, most)
        self.threads = threads_for(tuner, most, work >= SURE_WORK) if tuner != NULL else most
        caller = enter(0)
        begin = seconds_now()
        outcome = self.settle(objective, keep_gradients, steps.at(0), steps)
        if tuner != NULL:
            end = seconds_now()
            took(tuner, end - begin, 1, end)
        leave(caller)
        self.use.end(True)
        return OUTCOMES[outcome]

    def waiting(self):
        """Return the gradients that wait, with what they are to be divided by.

        Returns
        -------
        sums : ndarray (size + 16,)
            Like the parameters; zeros, where none waited. The last entries are the caller's.
            Whatever is written to them waits instead.
        total : float
        """
        self.reserve_gathered()
        if not self.pending:
            self.gathered[:self.size] = 0
            self.pending, self.pending_total = True, 0
        return self.gathered, self.pending_total

    def divide_waiting(self, double total):
        """Let the gradients that wait be divided by another number."""
        self.pending_total = total

    def forget_pending(self):
        """Drop the gradients that wait, unless another thread is at work with them."""
        if not self.use.writing:
            self.pending = False

    cdef Py_ssize_t block(self, Py_ssize_t n) noexcept nogil:
        """Rows of a prediction at a time: values stay in a cache, and weights are used often."""
        return evenly(n, max(<Py_ssize_t>BLOCK_ROWS, BLOCK_ENTRIES // self.widest))

    cdef Py_ssize_t training_block(self, Py_ssize_t n) noexcept nogil:
        """Likewise in training, where weight gradients are used often too."""
        return evenly(n, self.most_rows())

    cdef Py_ssize_t most_rows(self) noexcept nogil:
        """Rows that a block may have in training."""
        return max(<Py_ssize_t>BLOCK_ROWS, self.largest // ROWS_PER_WEIGHT)

    cdef inline bint takes(self, object value, Py_ssize_t columns):
        """Whether kernels take it as it is, as a matrix of so many columns."""
        return (cnp.PyArray_CheckExact(value)
                and cnp.PyArray_NDIM(<cnp.ndarray>value) == 2
                and cnp.PyArray_TYPE(<cnp.ndarray>value) == self.type_number
                and cnp.PyArray_DIM(<cnp.ndarray>value, 1) == columns
                and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>value))

    cdef inline bint fits(self, object out, cnp.ndarray x):
        """Whether the output for x can be written to `out`."""
        cdef cnp.ndarray y
        cdef char *start
        cdef Py_ssize_t size
        if not self.takes(out, self.n_out):
            return False
        y = out
        start, size = cnp.PyArray_BYTES(y), cnp.PyArray_NBYTES(y)
        return (cnp.PyArray_DIM(y, 0) == cnp.PyArray_DIM(x, 0) and cnp.PyArray_ISWRITEABLE(y)
                and not overlap(start, size, cnp.PyArray_BYTES(x), cnp.PyArray_NBYTES(x))
                and not overlap(start, size, self.parameters_start, self.size * self.itemsize))

    def inputs(self, x):
        """Return `x` itself if kernels take it, else a converted copy.

        Raises
        ------
        TypeError, ValueError
            Something that cannot be converted, or has another number of dimensions or features.
        """
        if self.takes(x, self.n_in):
            return x
        x = as_floats(x, "X", self.dtype)
        if self.flattens and x.ndim > 2:
            x = x.reshape(len(x), math.prod(x.shape[1:]))
        if x.ndim != 2:
            raise ValueError(f"X must have 2 dimensions, got {x.ndim}")
        if x.shape[1] != self.n_in:
            raise ValueError(f"X must have {self.n_in} features, got {x.shape[1]}")
        return x

    def predict(self, x, out=None):
        """Return the network's output (n, n_out) for `x`, in `out` if that is given.

        Raises
        ------
        TypeError, ValueError
            As `inputs`; an `out` of another shape or dtype, that is read-only or overlaps `x` or
            the parameters.
        RuntimeError
            Another thread trains the network.
        MemoryError
        """
        return self.checked_prediction(x, out)

    cdef cnp.ndarray checked_prediction(self, object x, object out):
        cdef cnp.ndarray X = x if self.takes(x, self.n_in) else self.inputs(x)
        cdef cnp.npy_intp *dims = [cnp.PyArray_DIM(X, 0), self.n_out]
        cdef cnp.ndarray Y
        if out is None:
            Y = cnp.PyArray_EMPTY(2, dims, self.type_number, 0)
        elif self.fits(out, X):
            Y = out
        else:                           # not so quick, and it knows what is wrong
            Y = output(out, "out", 2, dims, self.type_number)
            apart(Y, "out", X, "X", self.parameters, "the parameters")
        self.predict_into(X, Y)
        return Y

    cdef int predict_into(self, cnp.ndarray x, cnp.ndarray y) except -1:
        cdef Py_ssize_t first = 0, n = cnp.PyArray_DIM(x, 0), block = self.block(n)
        cdef Arena arena = self.predicting
        cdef int most = 1
        cdef Caller caller
        if arena is None or arena.rows < block or arena.lent:
            # The network's own is too small, or in use by another thread.
            arena = Arena(block, self.predict_columns, self.dtype, self.n_operations)
            if self.predicting is None or not self.predicting.lent:
                self.predicting = arena
        if arena is self.predicting:    # its tuners are for one thread of Python at a time
            most = self.most_threads(self.work * block)
        self.use.check_reading()        # asked last: memory is made in Python, others go on then
        arena.lent = True
        self.use.reading += 1
        try:
            while first < n:
                caller = enter(self.work * (n - first))
                first = self.predict_blocks(
                    arena, cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(y), first, n, block, most)
                leave(caller)
                if first < n:
                    PyErr_CheckSignals()
        finally:
            arena.lent = False
            self.use.reading -= 1
        return 0

    cdef Py_ssize_t predict_blocks(
            self, Arena arena, const char *x, char *y, Py_ssize_t first, Py_ssize_t n,
            Py_ssize_t block, int most) noexcept nogil:
        """Rows from `first` on, until it is time to look for signals; returns the next one."""
        cdef Py_ssize_t some
        cdef double work = self.work * block, begin = 0, end, done = 0
        cdef Tuner *tuner = self.tuner(PREDICTING, work, most)
        cdef int threads = most
        while first < n and done < WORK_BETWEEN_SIGNALS:
            some = evenly(n - first, block)     # no short last one, of which a way may be another
            if tuner != NULL:
                threads, begin = threads_for(tuner, most, work >= SURE_WORK), seconds_now()
            self.predict_rows(arena, <const real *>(x + first * self.n_in * self.itemsize),
                              <real *>(y + first * self.n_out * self.itemsize), some, threads)
            first += some
            done += self.work * some
            if tuner != NULL:
                end = seconds_now()
                took(tuner, end - begin, some, end)
        return first

    def finite(self):
        """Return whether all parameters are."""
        return self.kernels.first_not_finite(self.parameter(0), self.size) < 0

    def evaluate(self, cnp.ndarray x, cnp.ndarray target, cnp.ndarray sample_weight,
                 Objective objective, bint accuracy, cnp.ndarray scores=None):
        """Return `(outcome, total, shares, correct)`, as `train`, of the network as it is.

        `scores` (n, n_out), if it is given, gets those.

        Raises
        ------
        RuntimeError
            Another thread trains the network.
        ValueError
            As of `train`.
        MemoryError
        """
        self.check_rows(x, target, sample_weight)
        self.use.check_reading()
        self.use.reading += 1               # also while memory is made
        try:
            return self.measured(x, target, sample_weight, objective, accuracy, scores)
        finally:
            self.use.reading -= 1

    cdef int check_rows(
            self, cnp.ndarray x, cnp.ndarray target, cnp.ndarray sample_weight) except -1:
        """Compiled code reads as much of each as `x` has rows."""
        cdef Py_ssize_t n = cnp.PyArray_DIM(x, 0)
        if (cnp.PyArray_DIM(x, 1) != self.n_in or cnp.PyArray_DIM(target, 0) != n
                or cnp.PyArray_NDIM(target) > 1 and cnp.PyArray_DIM(target, 1) != self.n_out
                or sample_weight is not None and cnp.PyArray_DIM(sample_weight, 0) != n):
            raise ValueError(f"target must have shape {(n, self.n_out)} or {(n,)}, got "
                             f"{(<object>target).shape}")
        return 0

    cdef tuple measured(
            self, cnp.ndarray x, cnp.ndarray target, cnp.ndarray sample_weight,
            Objective objective, bint accuracy, cnp.ndarray scores):
        cdef Py_ssize_t n = cnp.PyArray_DIM(x, 0), first = 0, some, block = self.block(n)
        cdef Py_ssize_t correct = 0
        cdef cnp.ndarray own = np.empty((block, self.n_out), self.dtype) if scores is None else None
        cdef cnp.ndarray own_labels = np.empty(block, np.intp)
        cdef const real *found
        cdef Batch b = Batch(NULL, NULL, NULL, NULL, 0)
        cdef double total = 0, shares = 0, share, work = 0
        cdef cnp.ndarray at
        cdef Caller caller
        self.reserve_targets(block, sample_weight is not None or objective.takes_rows)
        while first < n:
            some = b.n = evenly(n - first, block)
            at = own[:some] if scores is None else scores[first:first + some]
            self.predict_into(x[first:first + some], at)
            found = <const real *>cnp.PyArray_DATA(at)
            if cnp.PyArray_NDIM(target) == 1:
                b.labels = <const Py_ssize_t *>cnp.PyArray_DATA(own_labels)
                if not self.take_labels(
                        <const Py_ssize_t *>cnp.PyArray_DATA(target) + first, NULL,
                        <Py_ssize_t *>cnp.PyArray_DATA(own_labels), some, objective.ignored):
                    return OUTCOMES[BAD_LABEL], 0.0, 0.0, 0
            else:
                b.rows = <const real *>(
                    cnp.PyArray_BYTES(target) + first * self.n_out * self.itemsize)
            if sample_weight is not None:
                b.weights = <const real *>(
                    cnp.PyArray_BYTES(sample_weight) + first * self.itemsize)
            if objective.loss == CROSS_ENTROPY and self.kernels.first_bad_probability(
                    found, some * self.n_out) >= 0:
                return OUTCOMES[BAD_PROBABILITY], 0.0, 0.0, 0
            caller = enter(0)
            share = self.weigh(&b, objective)
            total += self.loss_of(objective, found, &b, 0, some, NULL, 1)
            shares += share if objective.mean else some
            if accuracy:
                correct += self.right_answers(objective, found, &b, 0, some)
            leave(caller)
            first += some
            work += (self.work + PER_ENTRY * self.n_out) * some
            if work > WORK_BETWEEN_SIGNALS and first < n:
                work = 0
                PyErr_CheckSignals()
        return OUTCOMES[FINE], total, shares, correct


cdef class Forward:
    """A network for prediction alone, with packed weights of its own; arguments as of `Engine`.

    A subclass may take `more`.
    """

    cdef Engine engine
    cdef tuple arguments

    def __cinit__(self, list operations, cnp.ndarray parameters not None, bint flattens,
                  int n_threads, *more):
        parameters = parameters.copy()
        parameters.flags.writeable = False
        self.arguments = operations, parameters, flattens, n_threads
        self.engine = Engine(operations, parameters, parameters, flattens, True)
        self.engine.n_threads = n_threads

    @property
    def in_features(self):
        """Width of the input."""
        return self.engine.n_in

    @property
    def out_features(self):
        """Width of the output."""
        return self.engine.n_out

    @property
    def n_threads(self):
        """How many threads may work on a prediction; None: as many as the process may."""
        return self.engine.n_threads or None

    @property
    def dtype(self):
        """Type of inputs and outputs."""
        return self.engine.dtype

    def __reduce__(self):
        return type(self), self.arguments

    def predict(self, x, out=None):
        """Return the scores of `x`: as `Engine.predict`."""
        return self.engine.checked_prediction(x, out)


# ---- For tests ---------------------------------------------------------------------------------

def tuned(took_by, Py_ssize_t pieces, int most, bint sure=False, pause_before=None):
    """Return how many threads a tuner gives to each of so many pieces of work.

    `took_by(threads, time)` says how many seconds a piece takes, when so many have gone by, and
    `pause_before(time)` how many go by before it.
    """
    cdef Tuner t
    cdef double time = 0, seconds
    cdef int threads
    memset(&t, 0, sizeof(t))
    found = []
    for _ in range(pieces):
        threads = threads_for(&t, most, sure)
        found.append(threads)
        if pause_before is not None:
            time += pause_before(time)
        seconds = took_by(threads, time)
        time += seconds
        took(&t, seconds, 1, time)
    return found
