// Sixteen float32 numbers at a time, by the vector extension of GCC and Clang, which compiles for any processor.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace bottega {

using c10::BFloat16;

constexpr int64_t kLanes = 16;

// Rows of which the sums of 32 columns stay in registers.
#ifdef __AVX512F__
constexpr int kRegisterRows = 8;
#else
constexpr int kRegisterRows = 2;
#endif

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t HalfBits __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16)));

inline Floats load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

inline Floats load(const BFloat16* from) {
  HalfBits x;
  std::memcpy(&x, from, sizeof(x));
  return reinterpret_cast<Floats>(__builtin_convertvector(x, Bits) << 16);
}

// Whole numbers as float32.
inline Floats load(const int32_t* from) {
  Ints x;
  std::memcpy(&x, from, sizeof(x));
  return __builtin_convertvector(x, Floats);
}

inline void store(int8_t* to, Ints x) {
  const auto narrow = __builtin_convertvector(x, Bytes);
  std::memcpy(to, &narrow, sizeof(narrow));
}

inline void store(float* to, Floats x) { std::memcpy(to, &x, sizeof(x)); }

inline void store(BFloat16* to, Floats x) {
#ifdef __AVX512BF16__
  const auto rounded = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x));
#else
  const Bits bits = reinterpret_cast<Bits>(x);
  const Bits nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // ties to even
  // The carry would make zero of what is not a number.
  const auto rounded =
      __builtin_convertvector((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 64 : nearest, HalfBits);
#endif
  std::memcpy(to, &rounded, sizeof(rounded));
}

inline Floats broadcast(float x) { return Floats{} + x; }

// Each lane with the one `step` lanes away in its pair.
template <int step>
inline Floats swapped(Floats x) {
  constexpr Ints lane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return __builtin_shuffle(x, lane ^ step);
}

inline float sum(Floats x) {
  x += swapped<8>(x);
  x += swapped<4>(x);
  x += swapped<2>(x);
  x += swapped<1>(x);
  return x[0];
}

inline Floats maximum(Floats a, Floats b) { return a > b ? a : b; }

// One step of a transposition: exchanges the squares of `step` lanes beside the diagonals of those of twice the size.
template <int step, typename Vector>
inline void exchange(Vector* x) {
  constexpr Ints lane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  constexpr Ints first = (lane & step) == 0 ? lane : lane - step + 16,
                 second = (lane & step) == 0 ? lane + step : lane + 16;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & step) continue;
    const Vector a = x[i], b = x[i + step];
    x[i] = __builtin_shuffle(a, b, first);
    x[i + step] = __builtin_shuffle(a, b, second);
  }
}

// The matrix [16, 16] of numbers of 32 bits, turned.
template <typename Vector>
inline void transpose(Vector* x) {
  exchange<1>(x);
  exchange<2>(x);
  exchange<4>(x);
  exchange<8>(x);
}

// The first `count` columns of a matrix [16, 16], times a factor, as rows that lie `stride` apart.
inline void store_columns(const float* from, int64_t count, float factor, float* to, int64_t stride) {
  Floats x[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) x[i] = load(from + i * kLanes);
  transpose(x);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i < count) store(to + i * stride, x[i] * factor);
  }
}

inline float maximum(Floats x) {
  x = maximum(x, swapped<8>(x));
  x = maximum(x, swapped<4>(x));
  x = maximum(x, swapped<2>(x));
  return maximum(x, swapped<1>(x))[0];
}

// e^x for x ≤ 88, within two units in the last place; 0 below −87, and no number of what is none.
inline Floats exponential(Floats x) {
  const Floats clipped = maximum(x, broadcast(-87.0f));
  const Floats magic = broadcast(12582912.0f);  // 1.5 · 2^23: adding it rounds to a whole number
  const Floats whole = (clipped * 1.44269504f + magic) - magic;
  // ln 2 in two parts, so that the difference is exact.
  const Floats f = (clipped - whole * 0.693359375f) + whole * 2.12194440e-4f;
  const Floats p =
      1 +
      f * (1 + f * (0.5f + f * (1.66666667e-1f + f * (4.16666667e-2f + f * (8.33333333e-3f + f * 1.38888889e-3f)))));
  const Ints power = (__builtin_convertvector(whole, Ints) + 127) << 23;
  const Floats result = x < -87.0f ? Floats{} : p * reinterpret_cast<Floats>(power);
  return x != x ? x : result;
}

// The sums of the lanes of sixteen vectors.
inline Floats sums(const Floats* x) {
  Floats a[8], b[4], c[2];
  const Ints even{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
  for (int i = 0; i < 8; ++i)
    a[i] = __builtin_shuffle(x[2 * i], x[2 * i + 1], even) + __builtin_shuffle(x[2 * i], x[2 * i + 1], even + 1);
  for (int i = 0; i < 4; ++i)
    b[i] = __builtin_shuffle(a[2 * i], a[2 * i + 1], even) + __builtin_shuffle(a[2 * i], a[2 * i + 1], even + 1);
  for (int i = 0; i < 2; ++i)
    c[i] = __builtin_shuffle(b[2 * i], b[2 * i + 1], even) + __builtin_shuffle(b[2 * i], b[2 * i + 1], even + 1);
  return __builtin_shuffle(c[0], c[1], even) + __builtin_shuffle(c[0], c[1], even + 1);
}

}  // namespace bottega
