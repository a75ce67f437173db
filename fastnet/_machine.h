/* What Cython cannot say: vector types, operations on their lanes, and what the processor can do.
 * Only single values pass through here; every loop over an array is Cython (see _kernels.pyx).
 *
 * The kernels are compiled once per float type and instruction set, and setup.py tells them which
 * type by FASTNET_REAL. A module that only calls kernels serves both types: it leaves the macro
 * out, real is void there, and a `real *` is the untyped pointer that the table passes on.
 */
#ifndef FASTNET_MACHINE_H
#define FASTNET_MACHINE_H

#if defined(__AVX512F__)
#define FASTNET_VECTOR_BYTES 64
#elif defined(__AVX__)
#define FASTNET_VECTOR_BYTES 32
#else
#define FASTNET_VECTOR_BYTES 16
#endif

#ifdef FASTNET_REAL
typedef FASTNET_REAL real;

/* A vector register. `aligned` lets it be read from any array of real, `may_alias` from memory
 * that is written as real elsewhere. + - * / work lane by lane; scalar * vector broadcasts. */
typedef FASTNET_REAL vec __attribute__((
    vector_size(FASTNET_VECTOR_BYTES), aligned(sizeof(FASTNET_REAL)), may_alias));
#define LANES ((Py_ssize_t)(FASTNET_VECTOR_BYTES / sizeof(FASTNET_REAL)))

/* The same value in every lane. */
static inline vec broadcast(real x) { return x - (vec){0}; }
#else
typedef void real;
#endif /* FASTNET_REAL */

/* Clang's version string names it, gcc's is the bare number. */
#ifdef __clang__
#define FASTNET_COMPILER __VERSION__
#else
#define FASTNET_COMPILER "gcc " __VERSION__
#endif

/* Whether processor and operating system allow what setup.py switches on for these two levels.
 * __builtin_cpu_supports asks both: it reads XCR0 before it reports AVX registers. */
#if defined(__x86_64__)
static inline int cpu_has_x86_64_v3(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
        && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
static inline int cpu_has_x86_64_v4(void)
{
    return cpu_has_x86_64_v3() && __builtin_cpu_supports("avx512f")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#else
static inline int cpu_has_x86_64_v3(void) { return 0; }
static inline int cpu_has_x86_64_v4(void) { return 0; }
#endif

#endif /* FASTNET_MACHINE_H */
