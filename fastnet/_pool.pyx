"""The pool: threads that take the parts of a piece of work, one after another, until none is left.

The caller works along, and returns when all parts are done. A part is claimed by counting `left`
down; the number of the work stands in the same 64 bits, so that a thread that comes late can claim
nothing of a later work by mistake. Who has nothing to do looks for SPINS rounds, some tens of
microseconds, and then sleeps until it is woken. Workers keep off the caller's processor: Linux
likes to wake them there, and may leave both threads on it for a tenth of a second though another
processor is idle. There is one piece of work at a time: a caller that
finds the pool busy, with another Python thread's work, does all of its own alone.

Threads are made when they are first asked for, take no signals, never touch Python, and are gone in
the child of a fork, where the pool begins anew.

How many there may be is asked for anew by everybody who has work: `allowed`.
"""
from libc.stdint cimport uint64_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_attr_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(
        pthread_t *, const pthread_attr_t *, void *(*)(void *) noexcept nogil, void *)
    int pthread_attr_init(pthread_attr_t *)
    int pthread_attr_setdetachstate(pthread_attr_t *, int)
    int pthread_attr_setstacksize(pthread_attr_t *, size_t)
    int pthread_attr_destroy(pthread_attr_t *)
    int pthread_mutex_init(pthread_mutex_t *, const void *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_cond_init(pthread_cond_t *, const void *)
    int pthread_cond_wait(pthread_cond_t *, pthread_mutex_t *)
    int pthread_cond_broadcast(pthread_cond_t *)
    int pthread_atfork(void (*)() noexcept nogil, void (*)() noexcept nogil,
                       void (*)() noexcept nogil)
    int PTHREAD_CREATE_DETACHED

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *)
    int pthread_sigmask(int, const sigset_t *, sigset_t *)
    int SIG_SETMASK

cdef extern from * nogil:       # what gcc and clang make of these names: one instruction each
    uint64_t load "__atomic_load_n"(uint64_t *, int)
    void store "__atomic_store_n"(uint64_t *, uint64_t, int)
    uint64_t add "__atomic_add_fetch"(uint64_t *, uint64_t, int)
    bint swap "__atomic_compare_exchange_n"(uint64_t *, uint64_t *, uint64_t, bint, int, int)
    int ORDERED "__ATOMIC_SEQ_CST"

cdef extern from "_machine.h" nogil:
    unsigned long fp_mode()
    void set_fp_mode(unsigned long mode)
    unsigned long FLUSH

cdef extern from * nogil:
    """
    #if defined(__linux__)
    #include <sched.h>
    /* Processors that this thread may use; 0 if it is not known. */
    static int processors(void)
    {
        cpu_set_t set;
        return sched_getaffinity(0, sizeof set, &set) ? 0 : CPU_COUNT(&set);
    }
    struct place { int avoided, removed; cpu_set_t allowed; };
    /* Let this thread run anywhere else than on a processor, if there is anything else. What was
     * avoided before is allowed again, unless somebody has chosen what is allowed since. */
    static void avoid(int processor, struct place *here)
    {
        cpu_set_t allowed;
        if (processor == here->avoided || sched_getaffinity(0, sizeof allowed, &allowed))
            return;
        if (here->removed && CPU_EQUAL(&allowed, &here->allowed))
            CPU_SET(here->avoided, &allowed);
        here->avoided = processor;
        here->removed = processor >= 0 && CPU_ISSET(processor, &allowed) && CPU_COUNT(&allowed) > 1;
        if (here->removed)
            CPU_CLR(processor, &allowed);
        here->allowed = allowed;
        sched_setaffinity(0, sizeof allowed, &allowed);
    }
    #else
    #define processors() 0
    #define sched_getcpu() -1
    struct place { int avoided, removed; };
    #define avoid(processor, here)
    #endif
    #if defined(__x86_64__)
    #define rest() __builtin_ia32_pause()
    #else
    #define rest() __asm__ volatile("" ::: "memory")
    #endif
    """
    int processors()
    int sched_getcpu()
    struct place:               # of a thread: what it avoids, and whether that had been allowed
        int avoided, removed
    void avoid(int processor, place *here)
    void rest()             # of a thread that waits, for the other one on its core

ctypedef int (*Asked)() noexcept nogil

cdef enum:
    MOST = 255              # workers
    SPINS = 2_000           # rounds of waiting: some tens of microseconds
    STACK = 1 << 20         # bytes: kernels need 128 KB

cdef uint64_t LOWER = (<uint64_t>1 << 32) - 1       # half of a ticket

cdef struct Pool:
    uint64_t ticket         # the number of the work in the upper half, parts left in the lower
    uint64_t done           # parts
    uint64_t busy           # whether there is work
    uint64_t sleeping       # workers
    uint64_t waiting        # whether the caller sleeps
    uint64_t helpers        # workers that may take part
    uint64_t processor      # on which the caller began
    int workers             # that were made
    Task task
    void *work
    Py_ssize_t parts
    pthread_mutex_t lock
    pthread_cond_t wake, finished

cdef Pool pool

# How many threads may work. `blas` is NumPy's: who limits that - by threadpoolctl, joblib, a
# variable of the environment - means all threads of the process.
cdef int limit = 1          # what was chosen
cdef Asked blas = NULL
cdef bint by_user = False
cdef int blas_then = 0      # what that said when the user chose; 0: counts at once


cdef int allowed() noexcept nogil:
    """How many threads may work on something: at least 1."""
    cdef int found = min(limit, MOST + 1), other = processors()
    if other > 0:
        found = min(found, other)
    if blas != NULL:
        other = blas()
        if other != blas_then and other > 0:
            found = min(found, other)
    return found


def set_limit(int threads, bint chosen):
    """Let so many threads work, and no more than NumPy's BLAS.

    If the number was chosen by the user, what BLAS may take counts only when it changes.
    """
    global limit, by_user, blas_then
    limit, by_user = threads, chosen
    blas_then = blas() if chosen and blas != NULL else 0


def get_limit():
    """Return how many threads may work now."""
    return allowed()


def chosen():
    """Return the limit that the user chose, or 0."""
    return limit if by_user else 0


def blas_limit():
    """Return how many threads NumPy's BLAS may take, or 0 where it cannot be asked."""
    return blas() if blas != NULL else 0


def follow(size_t address):
    """Have a function of no arguments in C that tells how many threads NumPy's BLAS may take."""
    global blas
    blas = <Asked>address


cdef bint claim(uint64_t number, Py_ssize_t *left) noexcept nogil:
    """Take a part of this work, if there is one."""
    cdef uint64_t ticket = load(&pool.ticket, ORDERED)
    while ticket >> 32 == number and (ticket & LOWER) != 0:
        if swap(&pool.ticket, &ticket, ticket - 1, False, ORDERED, ORDERED):
            left[0] = <Py_ssize_t>(ticket & LOWER)
            return True
    return False


cdef void take_part(uint64_t number) noexcept nogil:
    """Do parts of this work until none is left."""
    cdef Py_ssize_t left = 0, parts
    while claim(number, &left):
        parts = pool.parts              # of this work, as long as this part is not done
        pool.task(pool.work, parts - left)
        if add(&pool.done, 1, ORDERED) == <uint64_t>parts and load(&pool.waiting, ORDERED) != 0:
            pthread_mutex_lock(&pool.lock)
            pthread_cond_broadcast(&pool.finished)
            pthread_mutex_unlock(&pool.lock)


cdef void *worker(void *index) noexcept nogil:
    cdef uint64_t number = 0, seen
    cdef place here = place(-1, False)
    cdef int spins
    set_fp_mode(fp_mode() | FLUSH)
    seen = load(&pool.ticket, ORDERED) >> 32
    # Work may have begun before this thread did.
    if <uint64_t>index < load(&pool.helpers, ORDERED):
        avoid(<int>load(&pool.processor, ORDERED), &here)
        take_part(seen)
    while True:
        spins = 0
        while load(&pool.ticket, ORDERED) >> 32 == seen and spins < SPINS:
            rest()
            spins += 1
        if load(&pool.ticket, ORDERED) >> 32 == seen:
            pthread_mutex_lock(&pool.lock)
            add(&pool.sleeping, 1, ORDERED)
            while load(&pool.ticket, ORDERED) >> 32 == seen:
                pthread_cond_wait(&pool.wake, &pool.lock)
            add(&pool.sleeping, <uint64_t>-1, ORDERED)
            pthread_mutex_unlock(&pool.lock)
        number = load(&pool.ticket, ORDERED) >> 32
        if <uint64_t>index < load(&pool.helpers, ORDERED):
            avoid(<int>load(&pool.processor, ORDERED), &here)
            take_part(number)
        seen = number


cdef void make_workers(int wanted) noexcept nogil:
    """Have so many workers, or as many as the system allows."""
    cdef pthread_attr_t attributes
    cdef sigset_t all_signals, before
    cdef pthread_t thread
    if pool.workers >= wanted or pthread_attr_init(&attributes):
        return
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED)
    pthread_attr_setstacksize(&attributes, STACK)
    sigfillset(&all_signals)
    pthread_sigmask(SIG_SETMASK, &all_signals, &before)
    while pool.workers < wanted and pthread_create(
            &thread, &attributes, worker, <void *><size_t>pool.workers) == 0:
        pool.workers += 1
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&attributes)


cdef void run(Task task, void *work, Py_ssize_t parts, int threads) noexcept nogil:
    """Do all parts of some work, on up to so many threads."""
    cdef uint64_t free = 0, number
    cdef Py_ssize_t part
    cdef int spins = 0
    threads = min(threads, MOST + 1)
    if threads <= 1 or parts <= 1 or not swap(&pool.busy, &free, 1, False, ORDERED, ORDERED):
        for part in range(parts):
            task(work, part)
        return
    make_workers(threads - 1)
    number = ((load(&pool.ticket, ORDERED) >> 32) + 1) & LOWER
    pool.task, pool.work, pool.parts = task, work, parts
    store(&pool.processor, <uint64_t>sched_getcpu(), ORDERED)
    store(&pool.done, 0, ORDERED)
    store(&pool.helpers, min(threads - 1, pool.workers), ORDERED)
    store(&pool.ticket, number << 32 | <uint64_t>parts, ORDERED)
    if load(&pool.sleeping, ORDERED):
        pthread_mutex_lock(&pool.lock)
        pthread_cond_broadcast(&pool.wake)
        pthread_mutex_unlock(&pool.lock)
    take_part(number)
    while load(&pool.done, ORDERED) < <uint64_t>parts and spins < SPINS:
        rest()
        spins += 1
    if load(&pool.done, ORDERED) < <uint64_t>parts:
        pthread_mutex_lock(&pool.lock)
        store(&pool.waiting, 1, ORDERED)
        while load(&pool.done, ORDERED) < <uint64_t>parts:
            pthread_cond_wait(&pool.finished, &pool.lock)
        store(&pool.waiting, 0, ORDERED)
        pthread_mutex_unlock(&pool.lock)
    store(&pool.busy, 0, ORDERED)


cdef void begin() noexcept nogil:
    """An empty pool: at import, and in the child of a fork, where no thread but one lives on."""
    pool.ticket = pool.done = pool.busy = pool.sleeping = pool.waiting = pool.helpers = 0
    pool.workers = 0
    pthread_mutex_init(&pool.lock, NULL)
    pthread_cond_init(&pool.wake, NULL)
    pthread_cond_init(&pool.finished, NULL)


begin()
pthread_atfork(NULL, NULL, begin)


# ---- For tests ---------------------------------------------------------------------------------

cdef struct Marks:
    int *counts
    Py_ssize_t work


cdef void mark(void *work, Py_ssize_t part) noexcept nogil:
    cdef Marks *marks = <Marks *>work
    cdef volatile Py_ssize_t i = 0
    while i < marks.work:
        i += 1
    marks.counts[part] += 1


def exercise(int[::1] counts, Py_ssize_t work, int threads):
    """Add 1 to each count, each by a part that counts to `work` first."""
    cdef Marks marks = Marks(&counts[0], work)
    with nogil:
        run(mark, &marks, counts.shape[0], threads)
    return pool.workers
