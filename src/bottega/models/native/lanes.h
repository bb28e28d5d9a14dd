// Sixteen numbers at a time, in as many registers as this processor needs for them.
//
// They are written with GCC's vector extension. Of vectors that are wider than a register, GCC takes most operations
// apart number by number, by way of memory; so those are pairs of narrower ones here.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace bottega {

constexpr int64_t kLanes = 16;

// Numbers of 32 bits in a register.
#if defined(__AVX512F__)
constexpr int kRegisterLanes = 16;
#elif defined(__AVX2__)
constexpr int kRegisterLanes = 8;
#else
constexpr int kRegisterLanes = 4;
#endif

template <typename T>
struct RegisterOf {
  typedef T type __attribute__((vector_size(kRegisterLanes * sizeof(T))));
};

template <typename T, int lanes>
struct Pair;

template <typename T, int lanes>
using Vector = typename std::conditional_t<lanes == kRegisterLanes, RegisterOf<T>, std::type_identity<Pair<T, lanes>>>::type;

// What is done to pairs is done to both halves; a single number stands for as many as there are.
#define BOTTEGA_BINARY(result, op)                                                                          \
  friend inline result operator op(Pair a, Pair b) { return {a.low op b.low, a.high op b.high}; }           \
  friend inline result operator op(Pair a, T b) { return {a.low op b, a.high op b}; }                       \
  friend inline result operator op(T a, Pair b) { return {a op b.low, a op b.high}; }
#define BOTTEGA_SHIFT(op) \
  friend inline Pair operator op(Pair a, int b) { return {a.low op b, a.high op b}; }
#define BOTTEGA_ASSIGN(op)                                                   \
  friend inline Pair& operator op##=(Pair& a, Pair b) { return a = a op b; } \
  friend inline Pair& operator op##=(Pair& a, T b) { return a = a op b; }

template <typename T, int lanes>
struct Pair {
  using Mask = Vector<int32_t, lanes>;
  Vector<T, lanes / 2> low, high;

  T operator[](int64_t lane) const { return lane < lanes / 2 ? low[lane] : high[lane - lanes / 2]; }

  friend inline Pair operator-(Pair a) { return {-a.low, -a.high}; }
  BOTTEGA_BINARY(Pair, +)
  BOTTEGA_BINARY(Pair, -)
  BOTTEGA_BINARY(Pair, *)
  BOTTEGA_BINARY(Pair, /)
  BOTTEGA_BINARY(Pair, &)
  BOTTEGA_BINARY(Pair, |)
  BOTTEGA_BINARY(Pair, ^)
  BOTTEGA_BINARY(Mask, <)
  BOTTEGA_BINARY(Mask, >)
  BOTTEGA_BINARY(Mask, <=)
  BOTTEGA_BINARY(Mask, >=)
  BOTTEGA_BINARY(Mask, ==)
  BOTTEGA_BINARY(Mask, !=)
  BOTTEGA_SHIFT(<<)
  BOTTEGA_SHIFT(>>)
  BOTTEGA_ASSIGN(+)
  BOTTEGA_ASSIGN(-)
  BOTTEGA_ASSIGN(*)
};

#undef BOTTEGA_BINARY
#undef BOTTEGA_SHIFT
#undef BOTTEGA_ASSIGN

using Floats = Vector<float, kLanes>;
using Ints = Vector<int32_t, kLanes>;
using Bits = Vector<uint32_t, kLanes>;
using HalfBits = Vector<uint16_t, kLanes>;
using ShortInts = Vector<int16_t, kLanes>;
using Bytes = Vector<int8_t, kLanes>;

template <typename V>
constexpr bool is_pair = false;
template <typename T, int lanes>
constexpr bool is_pair<Pair<T, lanes>> = true;

template <typename V>
using HalfOf = decltype(V::low);

// From memory and to it, register by register: copied as a whole, a pair would go by way of other memory.
template <typename V>
inline V loaded(const void* from) {
  if constexpr (is_pair<V>) {
    using Half = HalfOf<V>;
    return {loaded<Half>(from), loaded<Half>(static_cast<const char*>(from) + sizeof(Half))};
  } else {
    V x;
    std::memcpy(&x, from, sizeof(x));
    return x;
  }
}

template <typename V>
inline void stored(void* to, V x) {
  if constexpr (is_pair<V>) {
    stored(to, x.low);
    stored(static_cast<char*>(to) + sizeof(x.low), x.high);
  } else {
    std::memcpy(to, &x, sizeof(x));
  }
}

// The same bits, as numbers of another kind.
template <typename To, typename From>
inline To bits_as(From x) {
  if constexpr (is_pair<From>) {
    return {bits_as<HalfOf<To>>(x.low), bits_as<HalfOf<To>>(x.high)};
  } else {
    return reinterpret_cast<To>(x);
  }
}

// The same numbers, as those of another type.
template <typename To, typename From>
inline To convert(From x) {
  if constexpr (is_pair<From>) {
    return {convert<HalfOf<To>>(x.low), convert<HalfOf<To>>(x.high)};
  } else {
    return __builtin_convertvector(x, To);
  }
}

// a where the mask is set, else b.
template <typename M, typename V>
inline V select(M mask, V a, V b) {
  if constexpr (is_pair<V>) {
    return {select(mask.low, a.low, b.low), select(mask.high, a.high, b.high)};
  } else {
    return mask ? a : b;
  }
}

// Minus zero is nothing to compute, so x is loaded to all lanes at once; plus zero would be, as it turns -0 into 0.
inline Floats broadcast(float x) { return x - Floats{}; }

// A register with the numbers from 0 on.
using Places = RegisterOf<int32_t>::type;
#if defined(__AVX512F__)
constexpr Places kCounted{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(__AVX2__)
constexpr Places kCounted{0, 1, 2, 3, 4, 5, 6, 7};
#else
constexpr Places kCounted{0, 1, 2, 3};
#endif

// first, first + 1, …
template <typename V = Ints>
inline V count_from(int32_t first) {
  if constexpr (is_pair<V>) {
    using Half = HalfOf<V>;
    return {count_from<Half>(first), count_from<Half>(first + static_cast<int32_t>(sizeof(Half) / sizeof(int32_t)))};
  } else {
    return kCounted + first;
  }
}

// Each lane of a register with the one `step` lanes away in its pair.
template <int step, typename V>
inline V swapped(V x) {
  constexpr Places other = kCounted ^ step;
  return __builtin_shuffle(x, other);
}

// Combines all lanes by an operation on vectors, to a vector that has the result in every lane.
template <int step, typename V, typename Combine>
inline auto reduced(V x, const Combine& combine) {
  if constexpr (is_pair<V>) {
    return reduced<step / 2>(combine(x.low, x.high), combine);
  } else if constexpr (step > 1) {
    return reduced<step / 2>(combine(x, swapped<step / 2>(x)), combine);
  } else {
    return x;
  }
}

inline float sum(Floats x) {
  return reduced<kLanes>(x, [](auto a, auto b) { return a + b; })[0];
}

template <typename V>
inline V maximum(V a, V b) {
  return select(a > b, a, b);
}

inline float maximum(Floats x) {
  return reduced<kLanes>(x, [](auto a, auto b) { return maximum(a, b); })[0];
}

// One step of a transposition: exchanges the squares of `step` lanes beside the diagonal of that of twice the size.
template <int step, typename V>
inline void exchange(V& a, V& b) {
  if constexpr (!is_pair<V>) {
    constexpr Places first = (kCounted & step) == 0 ? kCounted : kCounted - step + kRegisterLanes,
                     second = (kCounted & step) == 0 ? kCounted + step : kCounted + kRegisterLanes;
    const V turned = __builtin_shuffle(a, b, first);
    b = __builtin_shuffle(a, b, second);
    a = turned;
  } else if constexpr (sizeof(a.low) / sizeof(a.low[0]) == step) {
    std::swap(a.high, b.low);
  } else {
    exchange<step>(a.low, b.low);
    exchange<step>(a.high, b.high);
  }
}

template <int step, typename V>
inline void exchange_rows(V* x) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & step) == 0) exchange<step>(x[i], x[i + step]);
  }
}

// The matrix [16, 16] of numbers of 32 bits, turned.
template <typename V>
inline void transpose(V* x) {
  exchange_rows<1>(x);
  exchange_rows<2>(x);
  exchange_rows<4>(x);
  exchange_rows<8>(x);
}

// The sums of the lanes of as many vectors as each has lanes.
template <typename V>
inline V sums(const V* x) {
  if constexpr (is_pair<V>) {
    constexpr int count = sizeof(V) / sizeof(float);
    HalfOf<V> halves[count];
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) halves[i] = x[i].low + x[i].high;
    return {sums(halves), sums(halves + count / 2)};
  } else {
    constexpr Places even = kCounted * 2, odd = kCounted * 2 + 1;
    V part[kRegisterLanes];
    std::memcpy(part, x, sizeof(part));
#pragma GCC unroll 4
    for (int count = kRegisterLanes / 2; count > 0; count /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i)
        part[i] = __builtin_shuffle(part[2 * i], part[2 * i + 1], even) + __builtin_shuffle(part[2 * i], part[2 * i + 1], odd);
    }
    return part[0];
  }
}

}  // namespace bottega
