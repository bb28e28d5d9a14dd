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

// The master of a weight is its bits followed by zeros, plus signed lower bits.
inline Floats join(const BFloat16* weight, const int16_t* low) {
  return bits_as<Floats>(bits_as<Ints>(load(weight)) + convert<Ints>(loaded<ShortInts>(low)));
}

inline void split(Floats master, BFloat16* weight, int16_t* low) {
  const Ints bits = bits_as<Ints>(master);
  const auto lower = convert<ShortInts>(bits);
  const auto upper = convert<ShortInts>((bits - convert<Ints>(lower)) >> 16);
  stored(low, lower);
  stored(weight, upper);
}

// What a weight in bfloat16 keeps of its master: lower bits in int16, as `engine.master_weights.SplitMasterWeight`, or
// a copy in float32, as `CopiedMasterWeight`.
inline Floats read_master(const BFloat16* weight, const int16_t* low) { return join(weight, low); }
inline Floats read_master(const BFloat16*, const float* copy) { return load(copy); }
inline void write_master(Floats master, BFloat16* weight, int16_t* low) { split(master, weight, low); }
inline void write_master(Floats master, BFloat16* weight, float* copy) {
  store(copy, master);
  store(weight, master);
}

struct AdamWTensors {
  at::Tensor weight, master, average, square, gradient;
};

template <typename Master, typename T>
void update_block(const AdamW& rule, const AdamWTensors& tensors, int64_t first, int64_t count) {
  BFloat16* w = tensors.weight.mutable_data_ptr<BFloat16>() + first;
  Master* m = tensors.master.mutable_data_ptr<Master>() + first;
  const T* g = tensors.gradient.const_data_ptr<T>() + first;
  float* a = tensors.average.mutable_data_ptr<float>() + first;
  float* s = tensors.square.mutable_data_ptr<float>() + first;
  const auto update = [&](BFloat16* w, Master* m, const T* g, float* a, float* s) {
    Floats average = load(a), square = load(s);
    write_master(rule.update(read_master(w, m), load(g), average, square), w, m);
    store(a, average);
    store(s, square);
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) update(w + i, m + i, g + i, a + i, s + i);
  const int64_t rest = count - i;
  if (rest == 0) return;
  BFloat16 last_w[kLanes]{};
  Master last_m[kLanes]{};
  T last_g[kLanes]{};
  float last_a[kLanes]{}, last_s[kLanes]{};
  std::copy_n(w + i, rest, last_w);
  std::copy_n(m + i, rest, last_m);
  std::copy_n(g + i, rest, last_g);
  std::copy_n(a + i, rest, last_a);
  std::copy_n(s + i, rest, last_s);
  update(last_w, last_m, last_g, last_a, last_s);
  std::copy_n(last_w, rest, w + i);
  std::copy_n(last_m, rest, m + i);
  std::copy_n(last_a, rest, a + i);
  std::copy_n(last_s, rest, s + i);
}

// Weights in bfloat16 with their masters and moments; gradients in bfloat16 or float32. `steps` counts this one.
inline void update_adamw(const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& masters,
                         const std::vector<at::Tensor>& averages, const std::vector<at::Tensor>& squares,
                         const std::vector<at::Tensor>& gradients, at::IntArrayRef steps, double rate, double beta1,
                         double beta2, double decay, double epsilon, double divisor) {
  struct Block {
    size_t weight;
    int64_t first, count;
  };
  std::vector<AdamWTensors> all;
  std::vector<AdamW> rules;
  std::vector<Block> blocks;
  for (size_t i = 0; i < weights.size(); ++i) {
    all.push_back({weights[i], masters[i], averages[i], squares[i], gradients[i].contiguous()});
    const AdamWTensors& its = all.back();
    const int64_t numbers = its.weight.numel();
    for (const at::Tensor* tensor :
         std::initializer_list<const at::Tensor*>{&its.weight, &its.master, &its.average, &its.square, &its.gradient})
      TORCH_CHECK(tensor->is_contiguous() && tensor->numel() == numbers, "a weight and what belongs to it lie alike");
    const double correction1 = 1 - std::pow(beta1, steps[i]), correction2 = 1 - std::pow(beta2, steps[i]);
    rules.push_back({static_cast<float>(rate), static_cast<float>(beta1), static_cast<float>(beta2),
                     static_cast<float>(decay), static_cast<float>(epsilon), static_cast<float>(divisor),
                     static_cast<float>(correction1), static_cast<float>(std::sqrt(correction2))});
    for (int64_t first = 0; first < numbers; first += kTask)
      blocks.push_back({i, first, std::min(kTask, numbers - first)});
  }
  for_each(blocks.size(), [&](int64_t number) {
    const Block& block = blocks[number];
    const AdamWTensors& its = all[block.weight];
    by_dtype(its.gradient, [&](auto type) {
      using T = decltype(type);
      if (its.master.scalar_type() == at::kShort) {
        update_block<int16_t, T>(rules[block.weight], its, block.first, block.count);
      } else {
        update_block<float, T>(rules[block.weight], its, block.first, block.count);
      }
    });
  });
}

}  // namespace bottega
