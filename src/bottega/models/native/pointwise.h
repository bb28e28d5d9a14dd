// Norms, rotations, activations and log-probabilities, with their gradients: everything between the products of a
// decoder or encoder.
//
// Each is one pass over its rows, in float32 whatever the dtype of the tensors.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "dropout.h"
#include "parallel.h"
#include "vectors.h"

namespace bottega {

// Sums of so many rows, whatever the number of threads: the order of a sum decides how it is rounded.
constexpr int64_t kRowsOfSum = 64;

template <typename Run>
void by_dtype(const at::Tensor& x, const Run& run) {
  if (x.scalar_type() == at::kBFloat16) return run(BFloat16{});
  TORCH_CHECK(x.scalar_type() == at::kFloat, "computed in float32 and bfloat16, not in ", x.scalar_type());
  run(float{});
}

// x / rms(x) · (weight + offset), and 1 / rms(x) of each row; x is the sum of two tensors if there is a second, and
// then that sum is stored.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor> normalize(const at::Tensor& x,
                                                                const std::optional<at::Tensor>& second,
                                                                const at::Tensor& weight, double epsilon,
                                                                double offset) {
  const at::Tensor from = x.contiguous(), added = second ? second->contiguous() : at::Tensor();
  const int64_t width = x.size(-1), rows = from.numel() / width;
  const at::Tensor factor = weight.contiguous();
  TORCH_CHECK((!second || second->sizes() == x.sizes()) && weight.numel() == width, "a norm of ", x.sizes(),
              " with a weight of ", weight.sizes());
  at::Tensor out = at::empty_like(from), inverses = at::empty({rows}, x.options().dtype(at::kFloat));
  at::Tensor total = second ? at::empty_like(from) : from;
  by_dtype(x, [&](auto type) {
    using T = decltype(type);
    const T *all = from.const_data_ptr<T>(), *factors = factor.const_data_ptr<T>();
    const T* others = second ? added.const_data_ptr<T>() : nullptr;
    T *to = out.mutable_data_ptr<T>(), *sums = total.mutable_data_ptr<T>();
    float* inverse = inverses.mutable_data_ptr<float>();
    for_rows(rows, width, [&](int64_t row) {
      const T* line = all + row * width;
      if (others) {
        for (int64_t i = 0; i < width; i += kLanes)
          store(sums + row * width + i, load(line + i) + load(others + row * width + i));
        line = sums + row * width;
      }
      Floats squares{};
      for (int64_t i = 0; i < width; i += kLanes) squares += load(line + i) * load(line + i);
      inverse[row] = 1 / std::sqrt(sum(squares) / width + static_cast<float>(epsilon));
      for (int64_t i = 0; i < width; i += kLanes) {
        store(to + row * width + i, load(line + i) * inverse[row] * (load(factors + i) + static_cast<float>(offset)));
      }
    });
  });
  return {out, inverses, total};
}

inline at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, double offset) {
  return std::get<0>(normalize(x, {}, weight, epsilon, offset));
}

// d_x = r · g − x · r³ · mean(g · x) with g = d_y · (weight + offset) and r the inverse, plus what x got otherwise;
// and, where it is wanted, the gradient of the weight, Σ d_y · x · r.
inline std::tuple<at::Tensor, at::Tensor> normalize_backward(const at::Tensor& d_y, const at::Tensor& x,
                                                             const at::Tensor& weight, const at::Tensor& inverses,
                                                             double offset, bool needs_weight,
                                                             const std::optional<at::Tensor>& other) {
  const at::Tensor from = x.contiguous(), gradient = d_y.contiguous();
  const at::Tensor added = other ? other->contiguous() : at::Tensor();
  const at::Tensor factor = weight.contiguous(), inverse_rms = inverses.contiguous();
  TORCH_CHECK(d_y.sizes() == x.sizes() && (!other || other->sizes() == x.sizes()) && weight.numel() == x.size(-1) &&
                  inverses.numel() * x.size(-1) == x.numel(),
              "gradients of a norm of ", x.sizes(), " with other sizes");
  const int64_t width = x.size(-1), rows = from.numel() / width;
  const int64_t parts = (rows + kRowsOfSum - 1) / kRowsOfSum;
  at::Tensor d_x = at::empty_like(from);
  at::Tensor sums = at::zeros({needs_weight ? parts : 0, width}, x.options().dtype(at::kFloat));
  by_dtype(x, [&](auto type) {
    using T = decltype(type);
    const T *all_x = from.const_data_ptr<T>(), *all_d = gradient.const_data_ptr<T>();
    const T* factors = factor.const_data_ptr<T>();
    const T* others = other ? added.const_data_ptr<T>() : nullptr;
    const float* inverse = inverse_rms.const_data_ptr<float>();
    T* to = d_x.mutable_data_ptr<T>();
    for_each(parts, [&](int64_t part) {
      float* total = needs_weight ? sums.mutable_data_ptr<float>() + part * width : nullptr;
      for (int64_t row = part * kRowsOfSum; row < std::min(rows, (part + 1) * kRowsOfSum); ++row) {
        const T *line = all_x + row * width, *d = all_d + row * width;
        const float r = inverse[row];
        Floats products{};
        for (int64_t i = 0; i < width; i += kLanes)
          products += load(d + i) * (load(factors + i) + static_cast<float>(offset)) * load(line + i);
        const float along_x = sum(products) * r * r * r / width;
        for (int64_t i = 0; i < width; i += kLanes) {
          const Floats g = load(d + i) * (load(factors + i) + static_cast<float>(offset));
          const Floats d_x = g * r - load(line + i) * along_x;
          store(to + row * width + i, others ? d_x + load(others + row * width + i) : d_x);
          if (total) store(total + i, load(total + i) + load(d + i) * load(line + i) * r);
        }
      }
    });
  });
  return {d_x, needs_weight ? sums.sum(0).to(weight.scalar_type()) : at::Tensor()};
}

// The layer norm (Ba et al. 2016, arXiv 1607.06450) of dropout(x) + residual, that sum, and of each row its mean and 1
// over its standard deviation.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> add_and_normalize(
    const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight, const at::Tensor& bias, double epsilon,
    int64_t seed, int64_t dropped) {
  const at::Tensor from = x.contiguous(), others = residual.contiguous();
  const at::Tensor factor = weight.contiguous(), shift = bias.contiguous();
  const int64_t width = x.size(-1), rows = from.numel() / width;
  TORCH_CHECK(x.sizes() == residual.sizes() && weight.numel() == width && bias.numel() == width, "a norm of ",
              x.sizes(), " and ", residual.sizes(), " with a weight of ", weight.sizes());
  at::Tensor out = at::empty_like(from), total = at::empty_like(from);
  at::Tensor means = at::empty({rows, 1}, x.options().dtype(at::kFloat)), inverses = at::empty_like(means);
  const Dropout dropout(seed, dropped);
  by_dtype(x, [&](auto type) {
    using T = decltype(type);
    const T *all = from.const_data_ptr<T>(), *added = others.const_data_ptr<T>();
    const T *factors = factor.const_data_ptr<T>(), *shifts = shift.const_data_ptr<T>();
    T *to = out.mutable_data_ptr<T>(), *sums = total.mutable_data_ptr<T>();
    float *mean = means.mutable_data_ptr<float>(), *inverse = inverses.mutable_data_ptr<float>();
    for_rows(rows, width, [&](int64_t row) {
      const Dropout::Line kept(dropout, row);
      T* line = sums + row * width;
      Floats all_of_row{}, squares{};
      for (int64_t i = 0; i < width; i += kLanes) {
        store(line + i, kept.keep(load(all + row * width + i), i) + load(added + row * width + i));
        all_of_row += load(line + i);
      }
      mean[row] = sum(all_of_row) / width;
      for (int64_t i = 0; i < width; i += kLanes) {
        const Floats distance = load(line + i) - mean[row];
        squares += distance * distance;
      }
      inverse[row] = 1 / std::sqrt(sum(squares) / width + static_cast<float>(epsilon));
      for (int64_t i = 0; i < width; i += kLanes)
        store(to + row * width + i, (load(line + i) - mean[row]) * inverse[row] * load(factors + i) + load(shifts + i));
    });
  });
  return {out, total, means, inverses};
}

// The gradients of x and residual, and where they are wanted of weight and bias; with z = (sum − mean) · r and g = d_y
// · weight, that of the sum is r · (g − mean(g) − z · mean(g · z)).
inline std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> add_and_normalize_backward(
    const at::Tensor& d_y, const at::Tensor& total, const at::Tensor& weight, const at::Tensor& means,
    const at::Tensor& inverses, int64_t seed, int64_t dropped, bool needs_weight) {
  const at::Tensor gradient = d_y.contiguous(), factor = weight.contiguous();
  TORCH_CHECK(d_y.sizes() == total.sizes() && weight.numel() == total.size(-1) && total.is_contiguous(),
              "gradients of a norm of ", total.sizes(), " with other sizes");
  const int64_t width = total.size(-1), rows = total.numel() / width, parts = (rows + kRowsOfSum - 1) / kRowsOfSum;
  const Dropout dropout(seed, dropped);
  at::Tensor d_total = at::empty_like(total), d_x = dropout.drops() ? at::empty_like(total) : d_total;
  at::Tensor sums = at::zeros({needs_weight ? parts : 0, 2, width}, total.options().dtype(at::kFloat));
  by_dtype(total, [&](auto type) {
    using T = decltype(type);
    const T *all_x = total.const_data_ptr<T>(), *all_d = gradient.const_data_ptr<T>();
    const T* factors = factor.const_data_ptr<T>();
    const float *mean = means.const_data_ptr<float>(), *inverse = inverses.const_data_ptr<float>();
    T *to = d_total.mutable_data_ptr<T>(), *dropped_to = d_x.mutable_data_ptr<T>();
    for_each(parts, [&](int64_t part) {
      float* d_weight = needs_weight ? sums.mutable_data_ptr<float>() + 2 * part * width : nullptr;
      for (int64_t row = part * kRowsOfSum; row < std::min(rows, (part + 1) * kRowsOfSum); ++row) {
        const Dropout::Line kept(dropout, row);
        const T *line = all_x + row * width, *d = all_d + row * width;
        const auto standard = [&](int64_t i) { return (load(line + i) - mean[row]) * inverse[row]; };
        Floats gradients{}, products{};
        for (int64_t i = 0; i < width; i += kLanes) {
          const Floats g = load(d + i) * load(factors + i);
          gradients += g;
          products += g * standard(i);
        }
        const float along_mean = sum(gradients) / width, along_x = sum(products) / width;
        for (int64_t i = 0; i < width; i += kLanes) {
          const Floats z = standard(i);
          const Floats d_sum = (load(d + i) * load(factors + i) - along_mean - z * along_x) * inverse[row];
          store(to + row * width + i, d_sum);
          if (dropout.drops()) store(dropped_to + row * width + i, kept.keep(d_sum, i));
          if (!d_weight) continue;
          store(d_weight + i, load(d_weight + i) + load(d + i) * z);
          store(d_weight + width + i, load(d_weight + width + i) + load(d + i));
        }
      }
    });
  });
  if (!needs_weight) return {d_x, d_total, {}, {}};
  const at::Tensor both = sums.sum(0).to(weight.scalar_type());
  return {d_x, d_total, both[0], both[1]};
}

// x [T, h, D] with the angles of its tokens [T, 1, D]: (x₁ c − x₂ s, x₂ c + x₁ s) of the halves of each head, or for a
// gradient the transposed of that rotation.
inline at::Tensor rotate(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine, bool transposed) {
  TORCH_CHECK(cosine.size(-1) == x.size(2) && sine.size(-1) == x.size(2) && cosine.numel() == x.size(0) * x.size(2),
              "angles are for heads of another width, or other tokens");
  const at::Tensor from = x.contiguous(), cosines = cosine.contiguous(), sines = sine.contiguous();
  at::Tensor out = at::empty_like(from);
  const int64_t heads = x.size(1), width = x.size(2), half = width / 2;
  by_dtype(x, [&](auto type) {
    using T = decltype(type);
    const T *all = from.const_data_ptr<T>(), *all_c = cosines.const_data_ptr<T>(), *all_s = sines.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    for_rows(x.size(0), heads * width, [&](int64_t token) {
      const T *c = all_c + token * width, *s = all_s + token * width;
      for (int64_t head = 0; head < heads; ++head) {
        const T* line = all + (token * heads + head) * width;
        T* target = to + (token * heads + head) * width;
        for (int64_t i = 0; i < half; i += kLanes) {
          const Floats a = load(line + i), b = load(line + half + i);
          // Each half takes the sine that multiplies it in the rotation.
          const Floats s_of_b = transposed ? -load(s + half + i) : load(s + i),
                       s_of_a = transposed ? -load(s + i) : load(s + half + i);
          store(target + i, a * load(c + i) - b * s_of_b);
          store(target + half + i, b * load(c + half + i) + a * s_of_a);
        }
      }
    });
  });
  return out;
}

// The probability that a standard normal number is below x, by a rational Chebyshev fit of erfc (Press et al.,
// Numerical Recipes, 6.2): 1.2e-7 of its value at most, also where that is small.
inline Floats normal_below(Floats x) {
  const Floats z = absolute(x) * 0.707106781f, t = 1 / (1 + 0.5f * z);
  constexpr float kFit[]{0.17087277f,  -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f,
                         -0.18628806f, 0.09678418f,  0.37409196f, 1.00002368f,  -1.26551223f};
  Floats power = broadcast(kFit[0]);
  for (int i = 1; i < 10; ++i) power = power * t + kFit[i];
  const Floats half = 0.5f * t * exponential(power - z * z);
  return select(x < 0.0f, half, 1 - half);
}

enum Activation : int64_t { kSilu, kGelu, kGeluTanh };  // in the order of `arithmetic.plain`

// The activation of x, and its slope there.
inline void activate(Floats x, int64_t kind, Floats& y, Floats& slope) {
  if (kind == kSilu) {  // below −87 it is zero, but not of what is no number
    const Floats gate = 1 / (1 + exponential(-maximum(x, broadcast(-87))));
    y = select(x < -87.0f, x * 0, x * gate);
    slope = select(x < -87.0f, x * 0, gate * (1 + x * (1 - gate)));
  } else if (kind == kGeluTanh) {  // by tanh(u) = 1 − 2 / (e^2u + 1)
    const Floats u = 1.595769122f * (x + 0.044715f * x * x * x);
    const Floats gate = 1 - 1 / (exponential(select(u > 80.0f, broadcast(80), u)) + 1);
    y = x * gate;
    slope = gate + x * gate * (1 - gate) * 1.595769122f * (1 + 0.134145f * x * x);
  } else {
    const Floats gate = normal_below(x);
    y = x * gate;
    slope = gate + x * exponential(-0.5f * x * x) * 0.398942280f;
  }
}

inline Floats activate(Floats x, int64_t kind) {
  Floats y, slope;
  activate(x, kind, y, slope);
  return y;
}

// act(x).
inline at::Tensor activated(const at::Tensor& x, int64_t activation) {
  const at::Tensor from = x.contiguous();
  at::Tensor out = at::empty_like(from);
  by_dtype(x, [&](auto type) {
    using T = decltype(type);
    const T* all = from.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    for_rows(from.numel() / kLanes, kLanes,
             [&](int64_t row) { store(to + row * kLanes, activate(load(all + row * kLanes), activation)); });
  });
  return out;
}

// act(x) and its slope there.
inline std::tuple<at::Tensor, at::Tensor> activated_with_slope(const at::Tensor& x, int64_t activation) {
  const at::Tensor from = x.contiguous();
  at::Tensor out = at::empty_like(from), slopes = at::empty_like(from);
  by_dtype(x, [&](auto type) {
    using T = decltype(type);
    const T* all = from.const_data_ptr<T>();
    T *to = out.mutable_data_ptr<T>(), *to_slope = slopes.mutable_data_ptr<T>();
    for_rows(from.numel() / kLanes, kLanes, [&](int64_t row) {
      Floats y, slope;
      activate(load(all + row * kLanes), activation, y, slope);
      store(to + row * kLanes, y);
      store(to_slope + row * kLanes, slope);
    });
  });
  return {out, slopes};
}

// act(gate) · up.
inline at::Tensor gated_product(const at::Tensor& gate, const at::Tensor& up, int64_t activation) {
  const at::Tensor gates = gate.contiguous(), ups = up.contiguous();
  TORCH_CHECK(gate.sizes() == up.sizes(), "a gate of ", gate.sizes(), " for ", up.sizes());
  at::Tensor out = at::empty_like(gates);
  by_dtype(gate, [&](auto type) {
    using T = decltype(type);
    const T *g = gates.const_data_ptr<T>(), *u = ups.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    for_rows(gates.numel() / kLanes, kLanes, [&](int64_t row) {
      const int64_t i = row * kLanes;
      store(to + i, activate(load(g + i), activation) * load(u + i));
    });
  });
  return out;
}

// The gradients of gate and up from that of their product.
inline std::tuple<at::Tensor, at::Tensor> gated_product_backward(const at::Tensor& d_product, const at::Tensor& gate,
                                                                 const at::Tensor& up, int64_t activation) {
  const at::Tensor gradient = d_product.contiguous(), gates = gate.contiguous(), ups = up.contiguous();
  TORCH_CHECK(gate.sizes() == up.sizes() && gate.sizes() == d_product.sizes(), "a gate of ", gate.sizes(), " for ",
              up.sizes());
  at::Tensor d_gate = at::empty_like(gates), d_up = at::empty_like(gates);
  by_dtype(gate, [&](auto type) {
    using T = decltype(type);
    const T *d = gradient.const_data_ptr<T>(), *g = gates.const_data_ptr<T>(), *u = ups.const_data_ptr<T>();
    T *to_gate = d_gate.mutable_data_ptr<T>(), *to_up = d_up.mutable_data_ptr<T>();
    for_rows(gates.numel() / kLanes, kLanes, [&](int64_t row) {
      const int64_t i = row * kLanes;
      Floats y, slope;
      activate(load(g + i), activation, y, slope);
      store(to_gate + i, load(d + i) * load(u + i) * slope);
      store(to_up + i, load(d + i) * y);
    });
  });
  return {d_gate, d_up};
}

// How logits become log-probabilities, as in `arithmetic.plain`.
struct LogitOptions {
  float scale, softcap, smoothing;  // softcap 0: none

  Floats logit(Floats raw) const {
    const Floats z = raw * scale;
    if (softcap == 0) return z;
    const Floats u = z * (2 / softcap);
    return softcap * (1 - 2 / (exponential(select(u > 80.0f, broadcast(80), u)) + 1));
  }
};

// The log-probability of a label of one row of raw logits, which with_gradient overwrites with the gradient to them.
template <typename T>
float log_probability(T* raw, int64_t width, int64_t label, const LogitOptions& options, bool with_gradient) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const int64_t whole = width / kLanes * kLanes, rest = width - whole;
  alignas(64) T last[kLanes];
  std::fill_n(last, kLanes, T(0));
  std::copy_n(raw + whole, rest, last);
  const Ints lane = count_from(0), is_there = lane < static_cast<int32_t>(rest);
  const auto logit = [&](int64_t i) {
    return i < whole ? options.logit(load(raw + i)) : select(is_there, options.logit(load(last)), broadcast(kNone));
  };
  Floats most = broadcast(kNone), total{}, all{};
  for (int64_t i = 0; i < width; i += kLanes) most = maximum(most, logit(i));
  const float largest = maximum(most);
  for (int64_t i = 0; i < width; i += kLanes) {
    const Floats z = logit(i);
    total += exponential(z - largest);
    if (options.smoothing != 0) all += i < whole ? z : select(is_there, z, Floats{});
  }
  const float log_of_sum = largest + std::log(sum(total)), chosen = options.logit(broadcast(raw[label]))[0];
  if (with_gradient) {
    const float even = options.smoothing / width;
    for (int64_t i = 0; i < width; i += kLanes) {
      const Floats z = logit(i);
      Floats d = even - exponential(z - log_of_sum);
      if (label >= i && label < i + kLanes) d += select(lane == static_cast<int32_t>(label - i), broadcast(1 - options.smoothing), Floats{});
      d *= options.scale;
      if (options.softcap != 0) d *= 1 - z * z / (options.softcap * options.softcap);
      if (i < whole) {
        store(raw + i, d);
      } else {
        store(last, d);
        std::copy_n(last, rest, raw + whole);
      }
    }
  }
  const float logp = chosen - log_of_sum;
  return options.smoothing == 0 ? logp : logp + options.smoothing * (sum(all) / width - chosen);
}

// raw [n, V], label [n] → [n] in float32.
inline at::Tensor log_probabilities(const at::Tensor& raw, const at::Tensor& label, double scale, double softcap,
                                    double smoothing, bool with_gradient) {
  TORCH_CHECK(raw.is_contiguous() && label.sizes() == raw.sizes().slice(0, 1), "logits lie as they were computed");
  const at::Tensor chosen = label.contiguous();
  const LogitOptions options{static_cast<float>(scale), static_cast<float>(softcap), static_cast<float>(smoothing)};
  const int64_t rows = raw.size(0), width = raw.size(1), *labels = chosen.const_data_ptr<int64_t>();
  at::Tensor out = at::empty({rows}, raw.options().dtype(at::kFloat));
  float* to = out.mutable_data_ptr<float>();
  by_dtype(raw, [&](auto type) {
    using T = decltype(type);
    T* all = raw.mutable_data_ptr<T>();
    for_each(rows, [&](int64_t row) {
      TORCH_CHECK(labels[row] >= 0 && labels[row] < width, "label ", labels[row], " of ", width);
      to[row] = log_probability(all + row * width, width, labels[row], options, with_gradient);
    });
  });
  return out;
}

}  // namespace bottega
