"""Whether several threads pay: measured while the work goes on, as the bits are the same.

Work of one kind, such as a network's steps of one batch size, comes again and again. A tuner takes
its time in windows of a few milliseconds, and tries another number of threads than the best so far
for a window: once at the beginning, then after a while, which grows with each trial, and soon where
several threads take longer than they did, as another process may have come. The other number has to
be better several times in a row, as windows are shorter than a scheduler's whims; and where more
threads had done well for a while, they are soon tried again.

What trying costs is bounded: who has lost a second by it works for 32 before it tries again.
"""

cdef enum:
    LOSSES_APART = 32           # seconds of work for each that a trial has lost
    IN_A_ROW = 3                # trials in which another number has to be better
    DOUBTFUL = 2                # windows in a row in which several threads were slower than before

# In seconds, and as shares.
cdef extern from *:
    """
    static const double WINDOW = 4e-3, PAUSE = 4e-3, LONG = 0.05;
    static const double FIRST_WAIT = 0.05, LONGEST_WAIT = 4.0;
    static const double WORTH_IT = 0.97, SUSPICIOUS = 1.15;
    """
    const double WINDOW         # what is compared is the mean over so long, or over one step
    const double PAUSE          # who works again after so long begins: a first piece says little
    const double FIRST_WAIT, LONGEST_WAIT
    const double LONG           # if several threads were best for so long, they are trusted
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
    bint trying                 # `other` is at work
    bint known                  # whether there was a comparison
    int wins, doubts            # of `other`, in a row; windows in which `best` was slow
    double cost                 # seconds per work of `best`, in its last window,
    double reference            # and when it was compared
    double seconds, work        # of the window that runs
    double wait, next           # seconds from one trial to the next, and when that may come,
    double calm                 # after so many seconds of work
    double age                  # for how long `best` has been it
    double last                 # when there was work
    bint apart                  # whether that came after a pause


cdef inline int threads_for(Tuner *t, int most, bint sure) noexcept nogil:
    """How many of up to `most` threads are to do the next piece of work.

    sure: so much work that most threads are best, as long as nothing else is known.
    """
    if t.most != most:
        t.most, t.trying, t.known = most, False, False
        t.wins = t.doubts = 0
        t.best, t.other = most if sure else 1, 1 if sure else most
        t.seconds = t.work = t.cost = t.reference = t.next = t.calm = t.age = t.last = 0
        t.apart = False
        t.wait = FIRST_WAIT
    return t.other if t.trying else t.best


cdef inline int another(const Tuner *t) noexcept nogil:
    """What to compare with next, if `other` was not better than `best`, or is no longer."""
    if t.best > 1:                              # fewer: by half, then one
        return t.other // 2 if 1 < t.other < t.best else max(1, t.best // 2)
    return t.other // 2 if t.other > 3 else t.most


cdef inline void took(Tuner *t, double seconds, double work, double now) noexcept nogil:
    """Take note of what a piece of work took with the number of threads that was asked for."""
    cdef bint paused = now - seconds - t.last > PAUSE, begins = paused and not t.apart
    t.last, t.apart = now, paused
    if begins:                          # caches hold something else, threads sleep
        return
    t.seconds += seconds
    t.work += work
    if t.seconds < WINDOW:
        return
    if t.trying:
        judge(t, t.seconds / t.work, now)
    else:
        t.cost = t.seconds / t.work
        t.calm -= t.seconds
        t.age += t.seconds
        t.doubts = t.doubts + 1 if t.cost > SUSPICIOUS * t.reference else 0
        if not t.known:
            t.known = t.trying = True
        elif t.best > 1 and t.calm <= 0 and t.doubts >= DOUBTFUL:
            t.wins = t.wins if t.other == 1 else 0
            t.other, t.trying = 1, True
        elif t.calm <= 0 and now >= t.next:
            t.trying = True
    t.seconds = t.work = 0


cdef inline void judge(Tuner *t, double cost, double now) noexcept nogil:
    """The end of a trial, in which a piece of work took so many seconds."""
    cdef bint more = t.other > t.best, better = cost < t.cost * (WORTH_IT if more else 1.0)
    cdef double lost = (cost - t.cost) * t.work
    t.trying = False
    if better and t.wins + 1 < IN_A_ROW:
        t.wins += 1
        t.calm = t.next = 0                     # again, after a window of `best`
        return
    t.wins = t.doubts = 0
    t.wait = min(2 * t.wait, LONGEST_WAIT)
    if better:
        t.best, t.other = t.other, t.best
        t.cost = cost
        lost = 0 if more else -lost             # by those that were at work before
        if not more and t.age > LONG:
            t.wait, lost = FIRST_WAIT, 0
        t.age = 0
    t.reference = t.cost
    t.calm = LOSSES_APART * max(lost, 0.0)
    t.next = now + t.wait
    t.other = another(t)
