// The operators. Every one has a reference in Python: `models/arithmetic/plain.py`, the fused forwards of
// `models/kernels`, the layouts of `models/attention`, `engine/adamw.py`, and `inference/samplers.py`.
#include <ATen/ATen.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "linear_layers.h"
#include "matrix_product.h"
#include "optimizer.h"
#include "packed_linear.h"
#include "parallel.h"
#include "pointwise.h"
#include "step_attention.h"
#include "tree_attention.h"
#include "vectors.h"

namespace bottega {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// A layer by its handle: an argument of a class of ours would cost more than a small product.
const PackedLinear* layer_of(int64_t handle) { return reinterpret_cast<const PackedLinear*>(handle); }

std::vector<Tensor> linears(const Tensor& x, at::IntArrayRef handles) {
  std::vector<const PackedLinear*> layers;
  for (const int64_t handle : handles) layers.push_back(layer_of(handle));
  std::vector<Tensor> out;
  by_dtype(x, [&](auto type) { out = apply_layers<decltype(type)>(x, layers); });
  return out;
}

Tensor linear(const Tensor& x, int64_t handle) { return linears(x, {handle})[0]; }

Tensor gated_mlp(const Tensor& tensor, int64_t gate_handle, int64_t up_handle, int64_t down_handle,
                 int64_t activation) {
  const PackedLinear *gate = layer_of(gate_handle), *up = layer_of(up_handle), *down = layer_of(down_handle);
  Tensor out;
  by_dtype(tensor, [&](auto type) {
    using T = decltype(type);
    const Inputs<T> x(tensor, {gate, up});
    Tensor product = at::empty({x.rows, gate->outputs}, tensor.options());
    T* to = product.mutable_data_ptr<T>();
    for_panels(x.rows, gate->panels(), [&](int64_t panel, int64_t first, int64_t count, Tiles& tiles) {
      alignas(64) float gates[kRows * kPanel], ups[kRows * kPanel];
      multiply_panel(x, first, count, *gate, panel, gates, tiles);
      multiply_panel(x, first, count, *up, panel, ups, tiles);
      for (int64_t row = 0; row < count; ++row) {
        float* line = gates + row * kPanel;
        for (int64_t i = 0; i < kPanel; i += kLanes)
          store(line + i, activate(load(line + i), activation) * load(ups + row * kPanel + i));
        store_panel(to, gate->outputs, first + row, panel, line);
      }
    });
    out = apply_layers<T>(product, {down})[0];
  });
  return out;
}

using Tensors = std::vector<Tensor>;

// The first of the largest of logits [B, V], for each row; −1 where the largest is not finite.
Tensor greedy(const Tensor& logits) {
  const Tensor from = logits.contiguous();
  const int64_t rows = from.size(0), width = from.size(1), whole = width / kLanes * kLanes;
  Tensor out = at::empty({rows}, from.options().dtype(at::kLong));
  int64_t* to = out.mutable_data_ptr<int64_t>();
  by_dtype(from, [&](auto type) {
    using T = decltype(type);
    const T* all = from.const_data_ptr<T>();
    for_each(rows, [&](int64_t row) {
      const T* line = all + row * width;
      Floats most = broadcast(-std::numeric_limits<float>::infinity()), sum_of_zeros{};
      Ints place{};
      for (int64_t i = 0; i < whole; i += kLanes) {
        const Floats x = load(line + i);
        const Ints is_more = x > most;
        most = select(is_more, x, most);
        place = select(is_more, Ints{} + static_cast<int32_t>(i), place);
        sum_of_zeros += x - x;  // unless one is not finite
      }
      float largest = -std::numeric_limits<float>::infinity();
      int64_t token = 0;
      const auto look_at = [&](float value, int64_t index) {
        if (value > largest || (value == largest && index < token)) largest = value, token = index;
      };
      for (int64_t lane = 0; lane < kLanes; ++lane) look_at(most[lane], place[lane] + lane);
      bool is_number = true;
      for (int64_t i = whole; i < width; ++i) {
        look_at(static_cast<float>(line[i]), i);
        is_number = is_number && !std::isnan(static_cast<float>(line[i]));
      }
      if (sum(sum_of_zeros) != 0) {  // excluded tokens have minus infinity; what is no number counts as the largest
        for (int64_t i = 0; i < whole; ++i) is_number = is_number && !std::isnan(static_cast<float>(line[i]));
      }
      to[row] = is_number && std::isfinite(largest) ? token : -1;
    });
  });
  return out;
}

Tensor attend_layer(const Tensor& q, const Tensor& k, const Tensor& v, const StepCache& cache,
                    const AttentionOptions& options) {
  Tensor out = at::empty({q.size(0), q.size(1), v.size(2)}, q.options());
  by_dtype(q, [&](auto type) { StepAttention<decltype(type)>(q, k, v, cache, options, out).run(); });
  return out;
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensors& memory, at::IntArrayRef plan,
              at::IntArrayRef places, double scale, int64_t window, double softcap, const OptionalTensor& sinks) {
  return attend_layer(q, k, v, {memory, plan, places[0], places[1]}, {scale, window, softcap, sinks});
}

Tensor decoder_layers(Tensor x, const Tensors& norms, at::ArrayRef<double> epsilons, double offset,
                      at::IntArrayRef layers, int64_t activation, int64_t width, const Tensors& angles,
                      at::IntArrayRef rotated, const Tensors& memory, at::IntArrayRef plan, at::IntArrayRef places,
                      at::ArrayRef<double> scales, at::IntArrayRef windows, at::ArrayRef<double> softcaps) {
  const int64_t count = scales.size(), its_norms = norms.size() / count;  // two, or four with those of heads
  for (int64_t i = 0; i < count; ++i) {
    const at::IntArrayRef its = layers.slice(7 * i, 7);
    const auto normalize = [&](const Tensor& input, int64_t which) {
      return rms_norm(input, norms[i * its_norms + which], epsilons[i * its_norms + which], offset);
    };
    Tensors parts = linears(normalize(x, 0), its.slice(0, 3));
    for (Tensor& part : parts) part = part.view({part.size(0), -1, width});
    for (int64_t head = 0; head < 2; ++head) {
      if (its_norms > 2) parts[head] = normalize(parts[head], 2 + head);
      if (rotated[i]) parts[head] = rotate(parts[head], angles[0], angles[1], false);
    }
    const StepCache cache(memory, plan, places[2 * i], places[2 * i + 1]);
    const Tensor attended = attend_layer(parts[0], parts[1], parts[2], cache, {scales[i], windows[i], softcaps[i], {}});
    x = at::add(x, linear(attended.flatten(1), its[3]));
    x = at::add(x, gated_mlp(normalize(x, 1), its[4], its[5], its[6], activation));
  }
  return x;
}

void multiply_all(Tensor out, const Tensors& left, const Tensors& right, const OptionalTensor& bias) {
  TORCH_CHECK(left.size() == right.size(), "a product has pairs of factors");
  std::vector<Factors> terms;
  for (size_t i = 0; i < left.size(); ++i) terms.push_back({left[i], right[i]});
  multiply_into(out, terms, bias.value_or(Tensor()));
}

std::tuple<Tensors, Tensor> linear_layers(const Tensor& x, const Tensors& weights, const Tensors& biases,
                                          const Tensors& a, const Tensors& b, at::ArrayRef<double> scales) {
  return LinearLayers{weights, biases, a, b, scales.vec()}.forward(x);
}

std::tuple<Tensor, Tensors, Tensor, Tensors> linear_layers_backward(const Tensors& d_y, const Tensor& x,
                                                                    const OptionalTensor& u, const Tensors& weights,
                                                                    const Tensors& a, const Tensors& b,
                                                                    at::ArrayRef<double> scales, bool needs_x,
                                                                    bool needs_weights, bool needs_adapters) {
  return LinearLayers{weights, {}, a, b, scales.vec()}.backward(d_y, x, u.value_or(Tensor()), needs_x, needs_weights,
                                                                needs_adapters);
}

// Attention of q [T, h, D] to k [T, g, D] and v [T, g, E] in the trees of a batch → (out [T, h, E], logs [T, h, 1]).
std::tuple<Tensor, Tensor> attend_trees(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& nodes,
                                        const Tensor& tokens, double scale, int64_t window, int64_t seed,
                                        int64_t dropped) {
  const Tensor queries = q.contiguous(), keys = k.contiguous(), values = v.contiguous();
  const Forest forest(nodes, tokens);
  Tensor out = at::empty({q.size(0), q.size(1), v.size(2)}, q.options());
  Tensor logs = at::empty({q.size(0), q.size(1), 1}, q.options().dtype(at::kFloat));
  forest.clear_padding(out);
  const TreeOptions options{scale, window, Dropout(seed, dropped)};
  by_dtype(q, [&](auto type) { attend_to_trees<decltype(type)>(queries, keys, values, forest, options, out, logs); });
  return {out, logs};
}

std::tuple<Tensor, Tensor, Tensor> attend_trees_backward(const Tensor& d_out, const Tensor& q, const Tensor& k,
                                                         const Tensor& v, const Tensor& out, const Tensor& logs,
                                                         const Tensor& nodes, const Tensor& tokens, double scale,
                                                         int64_t window, int64_t seed, int64_t dropped) {
  const TreeOptions options{scale, window, Dropout(seed, dropped)};
  Tensor d_q = at::empty_like(q, at::MemoryFormat::Contiguous), d_k = at::empty_like(k, at::MemoryFormat::Contiguous),
         d_v = at::empty_like(v, at::MemoryFormat::Contiguous);
  by_dtype(q, [&](auto type) {
    attend_to_trees_backward<decltype(type)>(d_out.contiguous(), q.contiguous(), k.contiguous(), v.contiguous(), out,
                                             logs, Forest(nodes, tokens), options, d_q, d_k, d_v);
  });
  return {d_q, d_k, d_v};
}

}  // namespace
}  // namespace bottega

TORCH_LIBRARY(bottega, m) {
  using bottega::PackedLinear;
  m.class_<PackedLinear>("PackedLinear")
      .def(torch::init<at::Tensor, std::optional<at::Tensor>, int64_t>())
      .def("weight", [](const c10::intrusive_ptr<PackedLinear>& self) { return self->weight(); })
      .def("bytes", [](const c10::intrusive_ptr<PackedLinear>& self) { return self->bytes(); })
      .def("handle",
           [](const c10::intrusive_ptr<PackedLinear>& self) { return reinterpret_cast<int64_t>(self.get()); });
  m.def("linear(Tensor x, int layer) -> Tensor", bottega::linear);
  m.def("linears(Tensor x, int[] layers) -> Tensor[]", bottega::linears);
  m.def("gated_mlp(Tensor x, int gate, int up, int down, int activation) -> Tensor", bottega::gated_mlp);
  m.def("rms_norm(Tensor x, Tensor weight, float epsilon, float offset) -> Tensor", bottega::rms_norm);
  m.def("sum_of_squares(Tensor x) -> float", bottega::sum_of_squares);
  m.def(
      "update_adamw(Tensor(a!)[] weights, Tensor(b!)[] masters, Tensor(c!)[] averages, Tensor(d!)[] squares, "
      "Tensor[] gradients, int[] steps, float rate, float beta1, float beta2, float decay, float epsilon, "
      "float divisor) -> ()",
      bottega::update_adamw);
  m.def("has_tiles() -> bool", bottega::has_tiles);
  m.def("multiply_into(Tensor(a!) out, Tensor[] left, Tensor[] right, Tensor? bias) -> ()", bottega::multiply_all);
  m.def(
      "linear_layers(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] a, Tensor[] b, float[] scales) -> "
      "(Tensor[], Tensor)",
      bottega::linear_layers);
  m.def(
      "linear_layers_backward(Tensor[] d_y, Tensor x, Tensor? u, Tensor[] weights, Tensor[] a, Tensor[] b, "
      "float[] scales, bool needs_x, bool needs_weights, bool needs_adapters) -> (Tensor, Tensor[], Tensor, Tensor[])",
      bottega::linear_layers_backward);
  m.def("normalize(Tensor x, Tensor? second, Tensor weight, float epsilon, float offset) -> (Tensor, Tensor, Tensor)",
        bottega::normalize);
  m.def(
      "normalize_backward(Tensor d_y, Tensor x, Tensor weight, Tensor inverse, float offset, bool needs_weight, "
      "Tensor? other) -> (Tensor, Tensor)",
      bottega::normalize_backward);
  m.def("rotate(Tensor x, Tensor cosine, Tensor sine, bool transposed) -> Tensor", bottega::rotate);
  m.def(
      "add_and_normalize(Tensor x, Tensor residual, Tensor weight, Tensor bias, float epsilon, int seed, int dropped) "
      "-> (Tensor, Tensor, Tensor, Tensor)",
      bottega::add_and_normalize);
  m.def(
      "add_and_normalize_backward(Tensor d_y, Tensor total, Tensor weight, Tensor mean, Tensor inverse, int seed, "
      "int dropped, bool needs_weight) -> (Tensor, Tensor, Tensor, Tensor)",
      bottega::add_and_normalize_backward);
  m.def("activated(Tensor x, int activation) -> Tensor", bottega::activated);
  m.def("activated_with_slope(Tensor x, int activation) -> (Tensor, Tensor)", bottega::activated_with_slope);
  m.def("gated_product(Tensor gate, Tensor up, int activation) -> Tensor", bottega::gated_product);
  m.def("gated_product_backward(Tensor d_product, Tensor gate, Tensor up, int activation) -> (Tensor, Tensor)",
        bottega::gated_product_backward);
  m.def(
      "log_probabilities(Tensor(a!) raw, Tensor label, float scale, float softcap, float smoothing, "
      "bool with_gradient) -> Tensor",
      bottega::log_probabilities);
  m.def(
      "attend_trees(Tensor q, Tensor k, Tensor v, Tensor nodes, Tensor tokens, float scale, int window, "
      "int seed, int dropped) -> (Tensor, Tensor)",
      bottega::attend_trees);
  m.def(
      "attend_trees_backward(Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor out, Tensor logs, Tensor nodes, "
      "Tensor tokens, float scale, int window, int seed, int dropped) -> (Tensor, Tensor, Tensor)",
      bottega::attend_trees_backward);
  m.def("greedy(Tensor logits) -> Tensor", bottega::greedy);
  m.def(
      "attend(Tensor q, Tensor k, Tensor v, Tensor[] memory, int[] plan, int[] places, float scale, int window, "
      "float softcap, Tensor? sinks) -> Tensor",
      bottega::attend);
  m.def(
      "decoder_layers(Tensor x, Tensor[] norms, float[] epsilons, float offset, int[] layers, int activation, "
      "int width, Tensor[] angles, int[] rotated, Tensor[] memory, int[] plan, int[] places, float[] scales, "
      "int[] windows, float[] softcaps) -> Tensor",
      bottega::decoder_layers);
}
