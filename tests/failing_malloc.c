/* To be loaded before all else: an allocation that is told to fails.

   `many` of them fail in a row, after `left` that do not; 0: none fails. `failed` counts. Python's own objects come through
   here with PYTHONMALLOC=malloc, NumPy's arrays do anyway.

   After a crash the status is PYTHONS_OWN where none of our modules was at work: Python 3.11 itself
   does not look at everything it allocates: a dict's iterator, a context variable.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

enum { PYTHONS_OWN = 77, FRAMES = 64 };

void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

long left = 0, many = 0, failed = 0;

static int fails(void)
{
    if (many == 0)
        return 0;
    if (left > 0) {
        left--;
        return 0;
    }
    many--;
    failed++;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t size) { return fails() ? NULL : __libc_realloc(p, size); }
void *memalign(size_t to, size_t size) { return fails() ? NULL : __libc_memalign(to, size); }
void *aligned_alloc(size_t to, size_t size) { return memalign(to, size); }

int posix_memalign(void **p, size_t to, size_t size)
{
    void *found = memalign(to, size);
    if (found == NULL)
        return ENOMEM;
    *p = found;
    return 0;
}

/* Outwards from the crash: our modules, or Python's loop over bytecodes first? */
static void crashed(int number)
{
    void *frames[FRAMES];
    Dl_info about;
    many = 0;
    int n = backtrace(frames, FRAMES);
    for (int i = 0; i < n; i++) {
        if (!dladdr(frames[i], &about))
            continue;
        if (about.dli_fname != NULL && strstr(about.dli_fname, "/fastnet/"))
            break;
        if (about.dli_sname != NULL && !strcmp(about.dli_sname, "_PyEval_EvalFrameDefault"))
            _exit(PYTHONS_OWN);
    }
    backtrace_symbols_fd(frames, n, 2);
    signal(number, SIG_DFL);
    raise(number);
}

__attribute__((constructor)) static void begin(void)
{
    void *frame;
    backtrace(&frame, 1);       /* loads what it needs */
    signal(SIGSEGV, crashed);
    signal(SIGABRT, crashed);
}
