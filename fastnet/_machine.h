/* What Cython cannot say: vector types, operations on their lanes, and what the processor can do.
 * Only single values pass through here; every loop over an array is Cython (see _kernels.pyx).
 *
 * The kernels are compiled once per float type and instruction set, and setup.py tells them which
 * type by FASTNET_BITS. A module that only calls kernels serves both types: it leaves the macro
 * out, real is void there, and a `real *` is the untyped pointer that the table passes on. */
#ifndef FASTNET_MACHINE_H
#define FASTNET_MACHINE_H
#if !defined(FASTNET_BITS)
typedef void real;
#else
#if FASTNET_BITS == 32
typedef float real;
typedef int lane;
#else
typedef double real;
typedef long long lane;
#endif

/* The width of a vector, and the rows and vectors of a product's tile: 32 registers, or 16. */
#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64
enum { ROWS = 8, VECTORS = 3 };
#else
#ifdef __AVX__
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
enum { ROWS = 6, VECTORS = 2 };
#endif
#define LANES (8 * VECTOR_BYTES / FASTNET_BITS)
enum { DOT_COLS = LANES < 4 ? LANES : 4 };

/* A vector register: + - * / work lane by lane, scalar * vector broadcasts. And the same where it
 * stands in an array of real: at any address (`aligned`), written as real elsewhere (`may_alias`). */
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef vec vec_in_array __attribute__((aligned(sizeof(real)), may_alias));
/* Integers of the same size; comparing vectors gives -1 in the lanes where it holds, 0 elsewhere. */
typedef lane lanes __attribute__((vector_size(VECTOR_BYTES)));

/* The same value in every lane. */
static inline vec broadcast(real x) { return x - (vec){0}; }

/* 0 in the lanes where v <= 0, v elsewhere; NaN stays NaN. */
static inline vec vec_relu(vec v) { return (vec)((lanes)v & ~(v <= (vec){0})); }

/* The first n lanes (1 .. LANES) at p. Memory behind them is not touched; a load gives 0 there. */
#if defined(__AVX512F__) && FASTNET_BITS == 32
#define FIRST(n) (__mmask16)(0xffff >> (LANES - (n)))
static inline vec load_first(const real *p, long n) { return _mm512_maskz_loadu_ps(FIRST(n), p); }
static inline void store_first(real *p, vec v, long n) { _mm512_mask_storeu_ps(p, FIRST(n), v); }
#elif defined(__AVX512F__)
#define FIRST(n) (__mmask8)(0xff >> (LANES - (n)))
static inline vec load_first(const real *p, long n) { return _mm512_maskz_loadu_pd(FIRST(n), p); }
static inline void store_first(real *p, vec v, long n) { _mm512_mask_storeu_pd(p, FIRST(n), v); }
#else
static inline vec load_first(const real *p, long n)
{
    vec v = {0};
    __builtin_memcpy(&v, p, n * sizeof(real));
    return v;
}
static inline void store_first(real *p, vec v, long n) { __builtin_memcpy(p, &v, n * sizeof(real)); }
#endif

/* Lanes of a and b in turn, a0 b0 a1 b1 ...: the first LANES of them, and the others. */
#if LANES == 16
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif LANES == 4
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#else
#define LOW 0, 2
#define HIGH 1, 3
#endif
#ifdef __clang__
static inline vec zip_low(vec a, vec b) { return __builtin_shufflevector(a, b, LOW); }
static inline vec zip_high(vec a, vec b) { return __builtin_shufflevector(a, b, HIGH); }
#else
static inline vec zip_low(vec a, vec b) { return __builtin_shuffle(a, b, (lanes){LOW}); }
static inline vec zip_high(vec a, vec b) { return __builtin_shuffle(a, b, (lanes){HIGH}); }
#endif
#endif /* FASTNET_BITS */
/* Whether processor and operating system allow what setup.py switches on for the x86-64 levels 3
 * and 4. __builtin_cpu_supports asks both: it reads XCR0 before it reports AVX registers. */
#if defined(__x86_64__)
#define HAS(feature) (__builtin_cpu_init(), __builtin_cpu_supports(feature))
#else
#define HAS(feature) 0
#endif
#define cpu_has_x86_64_v3() (HAS("avx2") && HAS("fma") && HAS("bmi") && HAS("bmi2"))
#define cpu_has_x86_64_v4() (cpu_has_x86_64_v3() && HAS("avx512f") && HAS("avx512bw") \
                             && HAS("avx512cd") && HAS("avx512dq") && HAS("avx512vl"))
#endif /* FASTNET_MACHINE_H */
