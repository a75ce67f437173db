"""Whether several threads pay: measured while the work goes on, as the bits are the same.

Work of one kind, such as a network's steps of one batch size, comes again and again. A tuner takes
its time in windows of a few milliseconds, and compares the number of threads that is best so far
with another one: once at the beginning, and again

* with one thread at work, after a while, which grows with each time that more did not pay;
* with several, when they take longer than they did. Then there may be another process on their
  processors, and one thread has to show that it is not quicker.

What trying costs is bounded: who has lost a second by it waits for 32 before it tries again.
"""

cdef enum:
    LOSSES_APART = 32           # seconds of work for each that a trial has lost

# In seconds, and as shares.
cdef extern from *:
    """
    static const double WINDOW = 4e-3, FIRST_WAIT = 0.05, LONGEST_WAIT = 4.0;
    static const double WORTH_IT = 0.97, SUSPICIOUS = 1.15;
    """
    const double WINDOW         # what is compared is the mean over so long, or over one step
    const double FIRST_WAIT, LONGEST_WAIT
    const double WORTH_IT       # more threads must take less than this share of the time
    const double SUSPICIOUS     # several threads that take so much longer than they did

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int, timespec *)
    int CLOCK_MONOTONIC


cdef inline double seconds_now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + 1e-9 * now.tv_nsec


cdef struct Tuner:
    int most                    # threads allowed
    int best, other             # numbers of threads: the best so far, and the one it is compared to
    bint warm                   # whether a first time, which says little, is over
    bint trying                 # `other` is at work
    bint known                  # whether there was a comparison
    double cost                 # seconds per work of `best`, in its last window,
    double reference            # and when it was compared
    double seconds, work        # of the window that runs
    double wait, left           # seconds from one trial to the next, and until the next


cdef inline int threads_for(Tuner *t, int most, bint sure) noexcept nogil:
    """How many of up to `most` threads are to do the next piece of work.

    sure: so much work that most threads are best, as long as nothing else is known.
    """
    if t.most != most:
        t.most, t.warm, t.trying, t.known = most, False, False, False
        t.best, t.other = most if sure else 1, 1 if sure else most
        t.seconds = t.work = t.cost = t.left = 0
        t.wait = FIRST_WAIT
    return t.other if t.trying else t.best


cdef inline int another(const Tuner *t) noexcept nogil:
    """What to compare with next, if `other` was not better than `best`, or is no longer."""
    if t.best > 1:                              # fewer: by half, then one
        return t.other // 2 if 1 < t.other < t.best else max(1, t.best // 2)
    return t.other // 2 if t.other > 3 else t.most


cdef inline void took(Tuner *t, double seconds, double work) noexcept nogil:
    """Take note of what a piece of work took with the number of threads that was asked for."""
    cdef double cost, spent, lost, done
    if not t.warm:
        t.warm = True
        return
    t.seconds += seconds
    t.work += work
    if t.seconds < WINDOW:
        return
    spent, done = t.seconds, t.work
    cost = spent / done
    lost = spent - t.cost * done
    t.seconds = t.work = 0
    if not t.trying:
        t.left -= spent
        t.cost = cost
        if not t.known:
            t.known = t.trying = True
            t.reference = cost
        elif t.left <= 0:
            if t.best > 1 and cost > SUSPICIOUS * t.reference:
                t.other, t.trying = 1, True
            elif t.best == 1 or t.other > 1:
                t.trying = True
            else:                               # several threads have proved themselves
                t.wait = FIRST_WAIT
        return
    t.trying = False
    if cost < t.cost * (WORTH_IT if t.other > t.best else 1.0):
        lost = 0
        if t.other == 1:                        # several threads have failed
            t.wait = min(2 * t.wait, LONGEST_WAIT)
            lost = (t.cost - cost) * done
        t.best, t.other = t.other, t.best
        t.cost = cost
    elif t.best == 1:
        t.wait = min(2 * t.wait, LONGEST_WAIT)
    t.reference = t.cost
    t.left = max(t.wait, LOSSES_APART * lost)
    t.other = another(t)
