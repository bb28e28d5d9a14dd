// What an optimizer does with large weights in bfloat16, in one pass over all that it keeps of them.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "parallel.h"
#include "pointwise.h"
#include "vectors.h"

namespace bottega {

inline Floats square_root(Floats x) {
#ifdef __AVX512F__
  return reinterpret_cast<Floats>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
#else
  for (int64_t i = 0; i < kLanes; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// Calls run(first, count) for blocks of a tensor's numbers, whose size does not depend on the number of threads.
template <typename Run>
void for_blocks_of(int64_t numbers, const Run& run) {
  for_each((numbers + kTask - 1) / kTask,
           [&](int64_t block) { run(block * kTask, std::min(kTask, numbers - block * kTask)); });
}

inline double sum_of_squares(const at::Tensor& x) {
  TORCH_CHECK(x.is_contiguous(), "numbers that lie one after the other");
  std::vector<double> parts((x.numel() + kTask - 1) / kTask);
  by_dtype(x, [&](auto type) {
    using T = decltype(type);
    const T* all = x.const_data_ptr<T>();
    for_blocks_of(x.numel(), [&](int64_t first, int64_t count) {
      const T* from = all + first;
      Floats squares{};
      int64_t i = 0;
      for (; i + kLanes <= count; i += kLanes) squares += load(from + i) * load(from + i);
      double total = sum(squares);
      for (; i < count; ++i) total += static_cast<double>(from[i]) * static_cast<double>(from[i]);
      parts[first / kTask] = total;
    });
  });
  // In float64: the terms differ by orders of magnitude.
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

struct AdamW {
  float rate, beta1, beta2, decay, epsilon, divisor;
  float correction1, root_of_correction2;  // 1 − βᵗ

  Floats update(Floats master, Floats gradient, Floats& average, Floats& square) const {
    const Floats g = gradient / divisor;
    average += (1 - beta1) * (g - average);
    square = beta2 * square + (1 - beta2) * g * g;
    const Floats size = square_root(square) / root_of_correction2 + epsilon;
    return master * (1 - rate * decay) - rate / correction1 * (average / size);
  }
};

typedef int16_t ShortInts __attribute__((vector_size(32)));

// The master of a weight is its bits followed by zeros, plus signed lower bits.
inline Floats join(const BFloat16* weight, const int16_t* low) {
  ShortInts lower;
  std::memcpy(&lower, low, sizeof(lower));
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(load(weight)) + __builtin_convertvector(lower, Ints));
}

inline void split(Floats master, BFloat16* weight, int16_t* low) {
  const Ints bits = reinterpret_cast<Ints>(master);
  const ShortInts lower = __builtin_convertvector(bits, ShortInts);
  const auto upper = __builtin_convertvector((bits - __builtin_convertvector(lower, Ints)) >> 16, ShortInts);
  std::memcpy(low, &lower, sizeof(lower));
  std::memcpy(weight, &upper, sizeof(upper));
}

// A weight in bfloat16 and the lower bits of its master as `engine.master_weights.SplitMasterWeight` keeps them; the
// moments in float32; the gradient in either.
inline void update_adamw(at::Tensor weight, at::Tensor low, at::Tensor average, at::Tensor square,
                         const at::Tensor& gradient, int64_t step, double rate, double beta1, double beta2,
                         double decay, double epsilon, double divisor) {
  for (const at::Tensor* tensor : std::initializer_list<const at::Tensor*>{&weight, &low, &average, &square, &gradient})
    TORCH_CHECK(tensor->is_contiguous() && tensor->numel() == weight.numel(),
                "a weight and what belongs to it lie alike");
  const AdamW rule{static_cast<float>(rate),
                   static_cast<float>(beta1),
                   static_cast<float>(beta2),
                   static_cast<float>(decay),
                   static_cast<float>(epsilon),
                   static_cast<float>(divisor),
                   static_cast<float>(1 - std::pow(beta1, step)),
                   static_cast<float>(std::sqrt(1 - std::pow(beta2, step)))};
  BFloat16* upper = weight.mutable_data_ptr<BFloat16>();
  int16_t* lower = low.mutable_data_ptr<int16_t>();
  float *averages = average.mutable_data_ptr<float>(), *squares = square.mutable_data_ptr<float>();
  by_dtype(gradient, [&](auto type) {
    using T = decltype(type);
    const T* gradients = gradient.const_data_ptr<T>();
    const auto update = [&](BFloat16* w, int16_t* l, const T* g, float* a, float* s) {
      Floats its_average = load(a), its_square = load(s);
      split(rule.update(join(w, l), load(g), its_average, its_square), w, l);
      store(a, its_average);
      store(s, its_square);
    };
    for_blocks_of(weight.numel(), [&](int64_t first, int64_t count) {
      int64_t i = first;
      for (; i + kLanes <= first + count; i += kLanes) update(upper + i, lower + i, gradients + i, averages + i, squares + i);
      const int64_t rest = first + count - i;
      if (rest == 0) return;
      BFloat16 w[kLanes]{};
      int16_t l[kLanes]{};
      T g[kLanes]{};
      float a[kLanes]{}, s[kLanes]{};
      std::copy_n(upper + i, rest, w);
      std::copy_n(lower + i, rest, l);
      std::copy_n(gradients + i, rest, g);
      std::copy_n(averages + i, rest, a);
      std::copy_n(squares + i, rest, s);
      update(w, l, g, a, s);
      std::copy_n(w, rest, upper + i);
      std::copy_n(l, rest, lower + i);
      std::copy_n(a, rest, averages + i);
      std::copy_n(s, rest, squares + i);
    });
  });
}

}  // namespace bottega
