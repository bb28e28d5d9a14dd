// Sixteen float32 numbers at a time: from and to memory, and what is computed of them.
#pragma once

#include <c10/util/BFloat16.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "lanes.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace bottega {

using c10::BFloat16;

// Rows of which the sums of 32 columns stay in registers.
constexpr int kRegisterRows = kRegisterLanes == 16 ? 8 : kRegisterLanes == 8 ? 2 : 1;

inline Floats load(const float* from) { return loaded<Floats>(from); }

inline Floats load(const BFloat16* from) { return bits_as<Floats>(convert<Bits>(loaded<HalfBits>(from)) << 16); }

// Whole numbers as float32.
inline Floats load(const int32_t* from) { return convert<Floats>(loaded<Ints>(from)); }

inline void store(int8_t* to, Ints x) {
  stored(to, convert<Bytes>(x));
}

inline void store(float* to, Floats x) { stored(to, x); }

inline void store(BFloat16* to, Floats x) {
#ifdef __AVX512BF16__
  stored(to, _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x)));
#else
  const Bits bits = bits_as<Bits>(x);
  const Bits nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // ties to even
  // The carry would make zero of what is not a number.
  const auto is_number = bits_as<Ints>(bits & 0x7fffffffu) <= 0x7f800000;
  stored(to, convert<HalfBits>(select(is_number, nearest, (bits >> 16) | 64u)));
#endif
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

inline Floats absolute(Floats x) { return select(x < 0.0f, -x, x); }

template <typename V>
inline V square_root(V x) {
  if constexpr (is_pair<V>) {
    return {square_root(x.low), square_root(x.high)};
  } else {
#ifdef __AVX512F__
    return reinterpret_cast<V>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
#else
    for (int i = 0; i < kRegisterLanes; ++i) x[i] = std::sqrt(x[i]);
    return x;
#endif
  }
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
  const Ints power = (convert<Ints>(whole) + 127) << 23;
  const Floats result = select(x < -87.0f, Floats{}, p * bits_as<Floats>(power));
  return select(x != x, x, result);
}

}  // namespace bottega
