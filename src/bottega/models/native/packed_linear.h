// Linear layers whose weight lies in memory in the order in which products read it.
//
// A product of few rows takes the time of reading the weight, so it is read once, from front to back, by all threads.
// The weight [N, K] is cut into panels of 32 outputs: [K / 32] blocks of [2 halves][16 pairs of inputs][16 outputs][2
// inputs], which is what AMX multiplies, and of which other processors read 16 pairs as 16 integers of twice the width.
// Every output is summed in the order of its inputs, however many rows there are: a row among others gets the bits that
// it gets alone.
//
// In 8 bits, a weight is a whole number of -127 to 127 times a scale of its output; blocks have 64 inputs, 4 of an
// output side by side. AMX multiplies whole numbers of 8 bits: an input becomes one of 16 bits times a scale of its
// row, and is multiplied as 256 · high + low. Nothing is rounded in these sums. Other processors widen weights to
// float32.
//
// Legend: M rows, K inputs, N outputs.
#pragma once

#include <ATen/ATen.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "blocks.h"
#include "parallel.h"
#include "tiles.h"
#include "vectors.h"

namespace bottega {

constexpr int64_t kPanel = 32;  // outputs of a panel
constexpr int64_t kBlock = 32;  // inputs of a block
constexpr int64_t kRows = 32;   // rows that are multiplied with a panel at once
// Rows whose inputs stay in the cache while all panels pass.
constexpr int64_t kRowBlock = 512;

constexpr int64_t kWholeBlock = 64;  // inputs of a block in 8 bits

struct PackedLinear : torch::CustomClassHolder {
  // In 16 bits, of a weight in bfloat16, or in 8.
  PackedLinear(at::Tensor weight, std::optional<at::Tensor> bias, int64_t bits)
      : inputs(weight.size(1)), outputs(weight.size(0)) {
    TORCH_CHECK(inputs % kBlock == 0, "packed layers have a multiple of 32 inputs");
    TORCH_CHECK(bits == 8 || (bits == 16 && weight.scalar_type() == at::kBFloat16), "no ", weight.scalar_type(), " in ",
                bits, " bits");
    // A sum of products of two numbers of 8 bits has 32.
    TORCH_CHECK(bits != 8 || inputs <= int64_t{1} << 17, inputs, " inputs are too many for 8 bits");
    if (bias) this->bias = bias->to(at::kFloat).contiguous();
    const int64_t block = bits == 8 ? kWholeBlock : kBlock, side = bits == 8 ? 4 : 2;
    weight = at::constant_pad_nd(weight, {0, round_up(inputs, block) - inputs, 0, panels() * kPanel - outputs});
    if (bits == 8) {
      weight = weight.to(at::kFloat);
      // At least the smallest normal number: an output of zeros must not be divided by 0.
      scale = weight.abs().amax(1).div_(127).clamp_min_(std::numeric_limits<float>::min());
      weight = weight.div(scale.unsqueeze(1)).round_().to(at::kChar);
    }
    panel = weight.view({panels(), 2, 16, -1, 16, side}).permute({0, 3, 1, 4, 2, 5}).contiguous();
  }

  // Of a weight in 8 bits, the rounded one in float32.
  at::Tensor weight() const {
    at::Tensor whole = panel.permute({0, 2, 4, 1, 3, 5}).reshape({panels() * kPanel, -1});
    if (scale.defined()) whole = whole.to(at::kFloat) * scale.unsqueeze(1);
    return whole.slice(0, 0, outputs).slice(1, 0, inputs);
  }

  int64_t bytes() const { return panel.nbytes() + (scale.defined() ? scale.nbytes() : 0); }
  int64_t panels() const { return (outputs + kPanel - 1) / kPanel; }

  int64_t inputs, outputs;
  at::Tensor panel;  // [N/32, K/32, 2, 16, 16, 2] in bfloat16, [N/32, K/64, 2, 16, 16, 4] in int8
  at::Tensor scale;  // [N rounded up to 32] in float32, of a weight in 8 bits
  at::Tensor bias;   // [N] in float32
};

#ifdef __AMX_BF16__
// sums [rows][32] of up to 32 rows x [rows, K] and one panel.
inline void multiply_tiles(const BFloat16* x, int64_t inputs, int64_t rows, const BFloat16* panel, float* sums,
                           Tiles& tiles) {
  // 0 to 3: sums; 4 and 5: rows; 6 and 7: the halves of a panel.
  const int first = std::min<int64_t>(rows, 16), second = std::max<int64_t>(rows - 16, 1);
  tiles.configure(
      {{{first, 64}, {first, 64}, {second, 64}, {second, 64}, {first, 64}, {second, 64}, {16, 64}, {16, 64}}});
  const int64_t stride = inputs * sizeof(BFloat16), line = kPanel * sizeof(float);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  finish_writing();
  for (int64_t k = 0; k < inputs; k += kBlock, panel += kBlock * kPanel) {
    _tile_loadd(6, panel, 64);
    _tile_loadd(7, panel + 512, 64);
    _tile_loadd(4, x + k, stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (rows <= 16) continue;
    _tile_loadd(5, x + 16 * inputs + k, stride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  // The first page of the panel after the next, which this thread is likely to take: it comes while sums are stored.
  const auto* ahead = reinterpret_cast<const char*>(panel + inputs * kPanel);
  for (int64_t i = 0; i < 4096; i += 64) __builtin_prefetch(ahead + i, 0, 2);
  _tile_stored(0, sums, line);
  _tile_stored(1, sums + 16, line);
  if (rows <= 16) return;
  _tile_stored(2, sums + 16 * kPanel, line);
  _tile_stored(3, sums + 16 * kPanel + 16, line);
}
#endif

// The rows of a product as whole numbers of 16 bits, each times a scale of its row: [M][2][K rounded up to 64] with the
// upper and the lower 8 bits.
class WholeInputs {
 public:
  template <typename T>
  WholeInputs(const T* x, int64_t rows, int64_t inputs) : width(round_up(inputs, kWholeBlock)) {
    lines_.resize(rows * 2 * width);
    scales_.resize(rows);
    for_rows(rows, inputs, [&](int64_t row) {
      const T* from = x + row * inputs;
      Floats most{}, zeros{};
      for (int64_t i = 0; i < inputs; i += kLanes) {
        const Floats number = load(from + i);
        most = maximum(most, absolute(number));
        zeros += number - number;  // unless one is not finite: then nor is the result
      }
      // The largest of which the upper part, rounded to the nearest, has 8 bits.
      constexpr float kMost = 127 * 256 + 127;
      const float largest = std::max(maximum(most), std::numeric_limits<float>::min() * kMost);
      scales_[row] = largest / kMost + sum(zeros);
      int8_t* upper = lines_.data() + row * 2 * width;
      for (int64_t i = 0; i < inputs; i += kLanes) {
        const Floats whole = load(from + i) * (kMost / largest);
        const auto number = convert<Ints>(whole + select(whole < 0.0f, broadcast(-0.5f), broadcast(0.5f)));
        const Ints high = (number + 128) >> 8;
        store(upper + i, high);
        store(upper + width + i, number - (high << 8));
      }
      std::fill_n(upper + inputs, width - inputs, 0);
      std::fill_n(upper + width + inputs, width - inputs, 0);
    });
  }

  const int8_t* row(int64_t row) const { return lines_.data() + row * 2 * width; }
  float scale(int64_t row) const { return scales_[row]; }

  const int64_t width;

 private:
  std::vector<int8_t> lines_;
  std::vector<float> scales_;
};

#ifdef __AMX_INT8__
// sums [rows][32] of up to 32 rows and one panel in 8 bits, but for the scale of its outputs.
inline void multiply_whole(const WholeInputs& x, int64_t first, int64_t rows, const int8_t* panel, float* sums,
                           Tiles& tiles) {
  // 0 and 1: sums of the upper parts; 2 and 3: of the lower; 4 and 5: rows; 6 and 7: the halves of a panel. Of up to
  // eight rows, both parts are in one tile.
  for (int64_t begin = 0; begin < rows; begin += kLanes) {
    const int64_t count = std::min(kLanes, rows - begin), line = 2 * x.width;
    const bool together = count <= kLanes / 2;
    const int lines = static_cast<int>(together ? 2 * count : count);
    const int64_t stride = together ? x.width : line;
    tiles.configure(
        {{{lines, 64}, {lines, 64}, {lines, 64}, {lines, 64}, {lines, 64}, {lines, 64}, {16, 64}, {16, 64}}});
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    finish_writing();
    const int8_t *from = x.row(first + begin), *block = panel;
    for (int64_t k = 0; k < x.width; k += kWholeBlock, block += kWholeBlock * kPanel) {
      _tile_loadd(6, block, 64);
      _tile_loadd(7, block + kWholeBlock * kPanel / 2, 64);
      _tile_loadd(4, from + k, stride);
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      if (together) continue;
      _tile_loadd(5, from + x.width + k, stride);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
    alignas(64) int32_t parts[4][kLanes][kLanes];
    _tile_stored(0, parts[0], 64);
    _tile_stored(1, parts[1], 64);
    if (!together) {
      _tile_stored(2, parts[2], 64);
      _tile_stored(3, parts[3], 64);
    }
    finish_writing();
    for (int64_t row = 0; row < count; ++row) {
      for (int64_t half = 0; half < 2; ++half) {
        const int32_t* high = together ? parts[half][2 * row] : parts[half][row];
        const int32_t* low = together ? parts[half][2 * row + 1] : parts[half + 2][row];
        store(sums + (begin + row) * kPanel + half * kLanes,
              (256.0f * load(high) + load(low)) * x.scale(first + begin + row));
      }
    }
  }
}
#endif

// Two inputs of sixteen outputs, as float32.
inline void load_pair(const BFloat16* from, Floats& even, Floats& odd) {
  const auto pairs = loaded<Bits>(from);
  even = bits_as<Floats>(pairs << 16);
  odd = bits_as<Floats>(pairs & 0xffff0000u);
}

// sums [R][32] of R rows x [R, K] and one panel, in registers.
template <int R>
void multiply_rows(const float* x, int64_t inputs, const BFloat16* panel, float* sums) {
  Floats low[R]{}, high[R]{};
  for (int64_t k = 0; k < inputs; k += kBlock, panel += kBlock * kPanel) {
    for (int64_t j = 0; j < kBlock; j += 2) {
      Floats even, odd, high_even, high_odd;
      load_pair(panel + j * kLanes, even, odd);
      load_pair(panel + kBlock * kLanes + j * kLanes, high_even, high_odd);
      for (int r = 0; r < R; ++r) {
        const Floats first = broadcast(x[r * inputs + k + j]), second = broadcast(x[r * inputs + k + j + 1]);
        low[r] += first * even;
        high[r] += first * high_even;
        low[r] += second * odd;
        high[r] += second * high_odd;
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    store(sums + r * kPanel, low[r]);
    store(sums + r * kPanel + kLanes, high[r]);
  }
}

// The same of a panel in 8 bits, but for the scale of its outputs.
inline void multiply_row(const float* x, int64_t inputs, const int8_t* panel, float* sums) {
  Floats total[2]{};
  for (int64_t k = 0; k < inputs; k += kWholeBlock, panel += kWholeBlock * kPanel) {
    for (int64_t half = 0; half < 2; ++half) {
      for (int64_t j = 0; j < std::min(kWholeBlock, inputs - k); j += 4) {
        const auto four = loaded<Ints>(panel + (half * kWholeBlock + j) * kLanes);
        total[half] += x[k + j] * convert<Floats>((four << 24) >> 24);
        total[half] += x[k + j + 1] * convert<Floats>((four << 16) >> 24);
        total[half] += x[k + j + 2] * convert<Floats>((four << 8) >> 24);
        total[half] += x[k + j + 3] * convert<Floats>(four >> 24);
      }
    }
  }
  store(sums, total[0]);
  store(sums + kLanes, total[1]);
}

// A panel in float32, [2 halves][K][16].
inline void widen_panel(const BFloat16* panel, int64_t inputs, float* wide) {
  for (int64_t k = 0; k < inputs; k += kBlock, panel += kBlock * kPanel) {
    for (int64_t half = 0; half < 2; ++half) {
      for (int64_t j = 0; j < kBlock; j += 2) {
        Floats even, odd;
        load_pair(panel + (half * kBlock + j) * kLanes, even, odd);
        float* to = wide + (half * inputs + k + j) * kLanes;
        store(to, even);
        store(to + kLanes, odd);
      }
    }
  }
}

inline void widen_panel(const int8_t* panel, int64_t inputs, float* wide) {
  for (int64_t k = 0; k < inputs; k += kWholeBlock, panel += kWholeBlock * kPanel) {
    for (int64_t half = 0; half < 2; ++half) {
      for (int64_t j = 0; j < std::min(kWholeBlock, inputs - k); j += 4) {
        const auto four = loaded<Ints>(panel + (half * kWholeBlock + j) * kLanes);
        float* to = wide + (half * inputs + k + j) * kLanes;
        for (int i = 0; i < 4; ++i) store(to + i * kLanes, convert<Floats>((four << (24 - 8 * i)) >> 24));
      }
    }
  }
}

// sums [rows][32] of up to R rows and a panel in float32, half after half, in registers.
template <int R>
void multiply_wide(const float* x, int64_t inputs, int64_t rows, const float* panel, float* sums) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_wide<R - 1>(x, inputs, rows, panel, sums);
  }
  using Register = RegisterOf<float>::type;
  constexpr int kParts = kLanes / kRegisterLanes;
  for (int64_t half = 0; half < kPanel; half += kLanes, panel += inputs * kLanes) {
    Register total[R][kParts]{};
    for (int64_t k = 0; k < inputs; ++k) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Register factor = x[r * inputs + k] - Register{};  // see `broadcast`
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part)
          total[r][part] += factor * loaded<Register>(panel + k * kLanes + part * kRegisterLanes);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int part = 0; part < kParts; ++part)
        stored(sums + r * kPanel + half + part * kRegisterLanes, total[r][part]);
    }
  }
}

// The rows x [M, K] of a product, in the form that the kernel at hand reads.
template <typename T>
class Inputs {
 public:
  Inputs(const at::Tensor& x, const std::vector<const PackedLinear*>& layers)
      : rows(x.size(0)), inputs(x.size(1)), kept_(x.contiguous()) {
    for (const PackedLinear* layer : layers) {
      TORCH_CHECK(x.is_cpu() && inputs == layer->inputs, "a layer of ", layer->inputs, " inputs got ", inputs);
    }
    x_ = kept_.const_data_ptr<T>();
    if (uses_tiles()) {
      if (layers[0]->scale.defined()) whole_.emplace(x_, rows, inputs);
      return;
    }
    wide_ = kept_.to(at::kFloat);
    wide_x_ = wide_.const_data_ptr<float>();
  }

  // sums [count][32] of rows `first` and on, and panel number `index` of a layer.
  void multiply(int64_t first, int64_t count, const PackedLinear& layer, int64_t index, float* sums,
                Tiles& tiles) const {
    if (!layer.scale.defined()) {
      return multiply(first, count, layer.panel.const_data_ptr<BFloat16>() + index * inputs * kPanel, sums, tiles);
    }
    const int64_t size = round_up(inputs, kWholeBlock) * kPanel;
    multiply(first, count, layer.panel.const_data_ptr<int8_t>() + index * size, sums, tiles);
    const float* scale = layer.scale.const_data_ptr<float>() + index * kPanel;
    for (int64_t i = 0; i < count * kPanel; i += kLanes) store(sums + i, load(sums + i) * load(scale + i % kPanel));
  }

  const int64_t rows, inputs;

 private:
  void multiply(int64_t first, int64_t count, const int8_t* panel, float* sums, Tiles& tiles) const {
#ifdef __AMX_INT8__
    if (whole_) return multiply_whole(*whole_, first, count, panel, sums, tiles);
#endif
    const float* x = wide_x_ + first * inputs;
    if (count >= kFewestToWiden) return multiply_widened(x, count, panel, sums);
    for (int64_t row = 0; row < count; ++row) multiply_row(x + row * inputs, inputs, panel, sums + row * kPanel);
  }

  void multiply(int64_t first, int64_t count, const BFloat16* panel, float* sums, Tiles& tiles) const {
#ifdef __AMX_BF16__
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (uses_tiles()) return multiply_tiles(x_ + first * inputs, inputs, count, panel, sums, tiles);
    }
#endif
    const float* x = wide_x_ + first * inputs;
    // Narrow registers hold the sums of two rows or one, and most of the time would go into widening the panel for each.
    if (kRegisterLanes < kLanes && count >= kFewestToWiden) return multiply_widened(x, count, panel, sums);
    int64_t row = 0;
    for (; row + kRegisterRows <= count; row += kRegisterRows) {
      multiply_rows<kRegisterRows>(x + row * inputs, inputs, panel, sums + row * kPanel);
    }
    for (; row < count; ++row) multiply_rows<1>(x + row * inputs, inputs, panel, sums + row * kPanel);
  }

  // With a panel that is widened once for all rows.
  template <typename Weight>
  void multiply_widened(const float* x, int64_t count, const Weight* panel, float* sums) const {
    static thread_local Buffer<float> wide;
    wide.resize(inputs * kPanel);
    widen_panel(panel, inputs, wide.data());
    for (int64_t row = 0; row < count; row += kWideRows) {
      const int64_t rows = std::min<int64_t>(kWideRows, count - row);
      multiply_wide<kWideRows>(x + row * inputs, inputs, rows, wide.data(), sums + row * kPanel);
    }
  }

  static constexpr int64_t kFewestToWiden = 3;  // rows; measured
  // Rows of which the sums of half a panel fit the registers: twelve of them.
  static constexpr int kWideRows = 12 * kRegisterLanes / kLanes;

  static bool uses_tiles() { return std::is_same_v<T, BFloat16> && Tiles::allowed(); }

  at::Tensor kept_, wide_;
  std::optional<WholeInputs> whole_;  // of layers in 8 bits; those of one input have the same number of bits
  const T* x_;
  const float* wide_x_ = nullptr;
};

// sums [count][32] of rows and panel number `index` of a layer, with its bias.
template <typename T>
void multiply_panel(const Inputs<T>& x, int64_t first, int64_t count, const PackedLinear& layer, int64_t index,
                    float* sums, Tiles& tiles) {
  x.multiply(first, count, layer, index, sums, tiles);
  if (!layer.bias.defined()) return;
  const int64_t n = index * kPanel, width = std::min(kPanel, layer.outputs - n);
  const float* bias = layer.bias.const_data_ptr<float>() + n;
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < width; ++i) sums[row * kPanel + i] += bias[i];
  }
}

// Row `row` of a panel of sums into an output [M, N].
template <typename T>
void store_panel(T* out, int64_t outputs, int64_t row, int64_t index, const float* sums) {
  const int64_t n = index * kPanel;
  T* to = out + row * outputs + n;
  if (n + kPanel <= outputs) {
    store(to, load(sums));
    store(to + kLanes, load(sums + kLanes));
  } else {
    std::copy_n(sums, outputs - n, to);
  }
}

// Calls run(panel, first row, count of rows, tiles) for all panels and rows.
template <typename Run>
void for_panels(int64_t rows, int64_t panels, const Run& run) {
  const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  share(blocks * panels, [&](const auto& take) {
    Tiles tiles;
    for (int64_t task; take(task);) {
      const int64_t begin = task / panels * kRowBlock, end = std::min(rows, begin + kRowBlock);
      for (int64_t row = begin; row < end; row += kRows) run(task % panels, row, std::min(kRows, end - row), tiles);
    }
  });
}

// Layers of one input x [M, K] → [M, N] each.
template <typename T>
std::vector<at::Tensor> apply_layers(const at::Tensor& tensor, const std::vector<const PackedLinear*>& layers) {
  const Inputs<T> x(tensor, layers);
  std::vector<at::Tensor> outputs;
  std::vector<std::pair<int64_t, int64_t>> jobs;  // (layer, panel)
  for (const PackedLinear* layer : layers) {
    for (int64_t panel = 0; panel < layer->panels(); ++panel) jobs.emplace_back(outputs.size(), panel);
    outputs.push_back(at::empty({x.rows, layer->outputs}, tensor.options()));
  }
  std::vector<T*> data;
  for (at::Tensor& output : outputs) data.push_back(output.mutable_data_ptr<T>());
  for_panels(x.rows, jobs.size(), [&](int64_t job, int64_t first, int64_t count, Tiles& tiles) {
    alignas(64) float sums[kRows * kPanel];
    const auto [number, panel] = jobs[job];
    const PackedLinear& layer = *layers[number];
    multiply_panel(x, first, count, layer, panel, sums, tiles);
    for (int64_t row = 0; row < count; ++row)
      store_panel(data[number], layer.outputs, first + row, panel, sums + row * kPanel);
  });
  return outputs;
}

}  // namespace bottega
