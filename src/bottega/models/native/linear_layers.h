// Linear layers of one input, with or without LoRA, forward and backward.
//
// Legend: x [T, I]; of each layer a weight [O, I] and, unless no layer has an adapter, A [r, I] and B [O, r].
#pragma once

#include <ATen/ATen.h>

#include <tuple>
#include <vector>

#include "matrix_product.h"

namespace bottega {

struct LinearLayers {
  std::vector<at::Tensor> weights, biases, a, b;  // the last three may be empty
  std::vector<double> scales;

  bool has_adapters() const { return !a.empty(); }
  at::Tensor stacked() const { return a.size() == 1 ? a[0] : at::cat(at::TensorList(a)); }

  // Calls run(layer, columns) for the columns of each layer in a tensor [T, Σr].
  template <typename Run>
  void for_ranks(const at::Tensor& u, const Run& run) const {
    int64_t first = 0;
    for (size_t i = 0; i < a.size(); first += a[i++].size(0)) run(i, u.narrow(1, first, a[i].size(0)));
  }

  // (y [T, O] of each layer, u = scale · x Aᵀ [T, Σr])
  std::tuple<std::vector<at::Tensor>, at::Tensor> forward(const at::Tensor& x) const {
    at::Tensor u;
    std::vector<at::Tensor> parts, outputs;
    if (has_adapters()) {
      u = multiply({{x, stacked().t()}});
      for_ranks(u, [&](size_t i, at::Tensor part) {
        if (scales[i] != 1) part.mul_(scales[i]);
        parts.push_back(part);
      });
    }
    for (size_t i = 0; i < weights.size(); ++i) {
      std::vector<Factors> terms{{x, weights[i].t()}};
      if (has_adapters()) terms.push_back({parts[i], b[i].t()});
      outputs.push_back(multiply(terms, biases.empty() ? at::Tensor() : biases[i]));
    }
    return {outputs, u};
  }

  // Gradients of (x, weights, A of all layers [Σr, I], B turned [r, O] each), as far as they are needed.
  std::tuple<at::Tensor, std::vector<at::Tensor>, at::Tensor, std::vector<at::Tensor>> backward(
      const std::vector<at::Tensor>& d_y, const at::Tensor& x, const at::Tensor& u, bool needs_x, bool needs_weights,
      bool needs_adapters) const {
    std::vector<at::Tensor> d_weights, d_b;
    at::Tensor d_x, d_a;
    std::vector<Factors> terms;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (needs_weights) d_weights.push_back(multiply({{d_y[i].t(), x}}));
      terms.push_back({d_y[i], weights[i]});
    }
    if (has_adapters()) {
      std::vector<at::Tensor> parts;
      for (size_t i = 0; i < weights.size(); ++i) {
        parts.push_back(multiply({{d_y[i], b[i]}}));
        if (scales[i] != 1) parts[i].mul_(scales[i]);
      }
      const at::Tensor d_u = parts.size() == 1 ? parts[0] : at::cat(at::TensorList(parts), 1);
      terms.push_back({d_u, stacked()});
      if (needs_adapters) {
        d_a = multiply({{d_u.t(), x}});
        for_ranks(u, [&](size_t i, const at::Tensor& part) { d_b.push_back(multiply({{part.t(), d_y[i]}})); });
      }
    }
    if (needs_x) d_x = multiply(terms);
    return {d_x, d_weights, d_a, d_b};
  }
};

}  // namespace bottega
