/* What Cython cannot say: vector types, operations on their lanes and bits, and what the processor
 * can do. Only single values pass through here; every loop over an array is Cython (_kernels.pyx).
 *
 * The kernels are compiled once per float type and instruction set, and setup.py tells them which
 * type by FASTNET_BITS. A module that only calls kernels serves both types: it leaves the macro
 * out, real is void there, and a `real *` is the untyped pointer that the table passes on. */
#ifndef FASTNET_MACHINE_H
#define FASTNET_MACHINE_H
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if !defined(FASTNET_BITS)
typedef void real;
#else
typedef unsigned long long bits64;
#if FASTNET_BITS == 32
typedef float real;
typedef unsigned bits;
enum { DIGITS = 23, BIAS = 127 };   /* of IEEE 754: bits behind the point, the exponent of 1.0 */
#define INTRINSIC(width, name) _mm##width##_##name##_ps
#else
typedef double real;
typedef bits64 bits;
enum { DIGITS = 52, BIAS = 1023 };
#define INTRINSIC(width, name) _mm##width##_##name##_pd
#endif

/* The width of a vector, and the rows and vectors of a product's tile, for 32 registers or 16;
 * where there are but FEW rows, it is WIDE. DEPTH is that of a strip of B, of at most 60 KB. */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define MM(name) INTRINSIC(512, name)
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define MM(name) INTRINSIC(256, name)
#else
#define VECTOR_BYTES 16
#define MM(name) INTRINSIC(, name)
#endif
enum { MANY = VECTOR_BYTES > 32, ROWS = MANY ? 8 : 6, VECTORS = MANY ? 3 : 2, FEW = MANY ? 3 : 1, WIDE = 8, DEPTH = MANY ? 320 : 512 };
#define LANES (8 * VECTOR_BYTES / FASTNET_BITS)
#define REGISTER __attribute__((vector_size(VECTOR_BYTES)))

/* A vector register: + - * / work lane by lane, scalar * vector broadcasts. And the same where it
 * stands in an array of real: at any address (`aligned`), written as real elsewhere (`may_alias`).
 * `lanes` are its bits. */
typedef real vec REGISTER;
typedef vec vec_in_array __attribute__((aligned(sizeof(real)), may_alias));
typedef bits lanes REGISTER;
/* Doubles in a register: PARTS of them hold what one vec does, and are converted one by one. */
typedef double dvec REGISTER;
typedef bits64 dlanes REGISTER;
enum { PARTS = 64 / FASTNET_BITS };
typedef real part __attribute__((vector_size(VECTOR_BYTES / PARTS), may_alias));
#if defined(__AVX512F__) && FASTNET_BITS == 32      /* gcc would go by way of memory */
static inline dvec widen(vec v, int k)
{
    return _mm512_cvtps_pd(k ? _mm512_extractf32x8_ps(v, 1) : _mm512_castps512_ps256(v));
}
static inline void narrow(dvec d, vec *v, int k)
{
    *v = k ? _mm512_insertf32x8(*v, _mm512_cvtpd_ps(d), 1) : _mm512_zextps256_ps512(_mm512_cvtpd_ps(d));
}
#else
static inline dvec widen(vec v, int k) { return __builtin_convertvector(((part *)&v)[k], dvec); }
static inline void narrow(dvec d, vec *v, int k) { ((part *)v)[k] = __builtin_convertvector(d, part); }
#endif

/* The same value in every lane. */
static inline vec broadcast(real x) { return x - (vec){0}; }
static inline dvec broadcast_double(double x) { return x - (dvec){0}; }

/* max(a, b) and min(a, b); b where either is NaN.   v, which gcc must not load or compute again. */
#if defined(__x86_64__)
static inline vec in_register(vec v) { return ({ __asm__("" : "+v"(v)); v; }); }
static inline vec larger(vec a, vec b) { return MM(max)(a, b); }
static inline vec smaller(vec a, vec b) { return MM(min)(a, b); }
static inline vec vec_sqrt(vec v) { return MM(sqrt)(v); }
#else
static inline vec in_register(vec v) { return ({ __asm__("" : "+m"(v)); v; }); }
#define CHOOSE(mask, a, b) (vec)(((lanes)(mask) & (lanes)(a)) | (~(lanes)(mask) & (lanes)(b)))
static inline vec larger(vec a, vec b) { return CHOOSE(a > b, a, b); }
static inline vec smaller(vec a, vec b) { return CHOOSE(a < b, a, b); }
#define ROOT(i) if (LANES > i) v[i % LANES] = __builtin_sqrt(v[i % LANES]);
static inline vec vec_sqrt(vec v) { ROOT(0) ROOT(1) ROOT(2) ROOT(3) return v; }
#endif

#if defined(__AVX512F__)
/* v 2^k for whole |k| <= 2 BIAS. */
static inline vec times_power_of_2(vec v, vec k) { return MM(scalef)(v, k); }
/* The first n lanes (1 .. LANES) at p. Memory behind them is not touched; a load gives 0 there. */
#define FIRST(n) ((1u << (n)) - 1)
static inline vec load_first(const real *p, long n) { return MM(maskz_loadu)(FIRST(n), p); }
static inline void store_first(real *p, vec v, long n) { MM(mask_storeu)(p, FIRST(n), v); }
#else
/* Adding 1.5 2^DIGITS leaves k in the low bits; in two steps there are exponents for every k. */
static inline vec times_power_of_2(vec v, vec k)
{
    const vec whole = broadcast(3ll << (DIGITS - 1));
    lanes exponents = (lanes)(k + whole) - (lanes)whole + 2 * BIAS, half = exponents >> 1;
    return v * (vec)(half << DIGITS) * (vec)((exponents - half) << DIGITS);
}
/* Two pieces that may overlap, of a constant size: gcc moves each at once. */
#define COPY(at, size) __builtin_memcpy(p + (at), (real *)&v + (at), (size) * sizeof(real))
#define PIECES(size) if (LANES > size && n >= size) { COPY(0, size); COPY(n - size, size); return; }
static inline void store_first(real *p, vec v, long n) { PIECES(4) PIECES(2) PIECES(1) }
#if defined(__AVX__)
static const bits numbers[] = {0, 1, 2, 3, 4, 5, 6, 7};
#define FIRST(n) (__m256i)((lanes)*(const vec_in_array *)numbers < (bits)(n))
static inline vec load_first(const real *p, long n) { return MM(maskload)(p, FIRST(n)); }
#else
#define LANE(i) if (LANES > i && n > i) v[i % LANES] = p[i];
static inline vec load_first(const real *p, long n) { vec v = {0}; LANE(0) LANE(1) LANE(2) LANE(3) return v; }
#endif
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
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (lanes){__VA_ARGS__})
#endif
static inline vec zip_low(vec a, vec b) { return SHUFFLE(a, b, LOW); }
static inline vec zip_high(vec a, vec b) { return SHUFFLE(a, b, HIGH); }
#endif /* FASTNET_BITS */

/* The floating-point mode of this thread; with FLUSH, subnormal numbers count as 0. */
#if defined(__x86_64__)
enum { FLUSH = 0x8040 };        /* flush-to-zero and denormals-are-zero, of MXCSR */
static inline unsigned long fp_mode(void) { return _mm_getcsr(); }
static inline void set_fp_mode(unsigned long mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
enum { FLUSH = 1 << 24 };       /* FZ, of FPCR */
static inline unsigned long fp_mode(void)
{
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void set_fp_mode(unsigned long mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
enum { FLUSH = 0 };             /* none that is known */
static inline unsigned long fp_mode(void) { return 0; }
static inline void set_fp_mode(unsigned long mode) { (void)mode; }
#endif

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
