// Products of large matrices in bfloat16 by tiles, for training.
//
// The second factor is brought into the order of tiles group by group, by the thread that needs it, and stays in its
// cache while all rows of the first pass. A product may have many terms: what LoRA adds to a layer, or the gradients of
// layers with a common input, is part of one sum and rounded once. Every output is summed in float32 in the order of
// its inputs, whatever the number of threads.
//
// Legend: C [M, N] = Σ A [M, K] B [K, N] over the terms, plus a bias [N].
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "blocks.h"
#include "parallel.h"
#include "tiles.h"
#include "vectors.h"

namespace bottega {

struct Factors {
  at::Tensor a, b;  // [M, K], [K, N]
};

#ifdef __AMX_BF16__

// A matrix in which the numbers of a row, or those of a column, lie side by side.
struct Matrix {
  explicit Matrix(const at::Tensor& tensor) : rows(tensor.size(0)), columns(tensor.size(1)) {
    kept = tensor.stride(1) == 1 || tensor.stride(0) == 1 ? tensor : tensor.contiguous();
    by_row = kept.stride(1) == 1;
    data = kept.const_data_ptr<BFloat16>();
    stride = kept.stride(by_row ? 0 : 1);
  }

  Matrix transposed() const {
    Matrix other = *this;
    std::swap(other.rows, other.columns);
    other.by_row = !by_row;
    return other;
  }

  int64_t rows, columns, stride;
  bool by_row;
  const BFloat16* data;
  at::Tensor kept;
};

class MatrixProduct {
 public:
  // The bias may be null.
  MatrixProduct(const std::vector<Factors>& terms, const float* bias, at::Tensor& out)
      : bias_(bias), out_(out.mutable_data_ptr<BFloat16>()), rows_(out.size(0)), columns_(out.size(1)) {
    for (const auto& [a, b] : terms) {
      a_.emplace_back(a);
      b_.push_back(Matrix(b).transposed());
    }
  }

  void run() {
    const std::vector<Chunk> chunks = make_chunks();
    if (chunks.size() == 1) return run_chunk(chunks[0], 0, rows_, nullptr, true, true);
    // Sums of several chunks are kept meanwhile, of not too many rows.
    const int64_t width = round_up(columns_, kSide);
    const int64_t rows = std::max<int64_t>(kSumBytes / sizeof(float) / width / kSide, 1) * kSide;
    static thread_local Buffer<float> sums;
    sums.resize(std::min(rows, round_up(rows_, kSide)) * width);
    for (int64_t row = 0; row < rows_; row += rows) {
      for (size_t i = 0; i < chunks.size(); ++i)
        run_chunk(chunks[i], row, std::min(rows_, row + rows), sums.data(), i == 0, i + 1 == chunks.size());
    }
  }

 private:
  static constexpr int64_t kTile = 512;       // numbers
  static constexpr int64_t kMaxDepth = 4096;  // inputs that are summed before sums go back to memory
  static constexpr int64_t kMaxTurnedDepth = 1024;
  static constexpr int64_t kGroupBytes = 1000000;   // of a group of panels of the second factor, in a thread's cache
  static constexpr int64_t kPackedBytes = 4 << 20;  // of the first factor, where it has to be brought into order
  static constexpr int64_t kSumBytes = 8 << 20;     // of sums that are kept
  static constexpr int64_t kMinRows = 128;          // of a task
  // A larger output goes past the cache: it would push out what is read again. With small ones in the cache, an update
  // of an encoder of width 384 and 540 tokens took 7 % less time.
  static constexpr int64_t kCachedBytes = 2 << 20;

  // Some inputs of a term, and where they lie in packed panels.
  struct Part {
    const Matrix *a, *b;  // b [N, K]
    int64_t first, count, place;
    bool packs_a;  // unless tiles can be loaded from where it lies
  };
  struct Chunk {
    std::vector<Part> parts;
    int64_t depth = 0;
  };
  // The first factor as tiles are loaded: distances in numbers.
  struct Source {
    const BFloat16* data;
    int64_t row, tile, half, side;  // to the next row, 32 inputs, 16 rows, 32 rows
  };

  std::vector<Chunk> make_chunks() const {
    std::vector<Chunk> chunks(1);
    for (size_t i = 0; i < a_.size(); ++i) {
      // The first factor of a gradient of weights has as many inputs as tokens, and is packed: fewer stay in the cache.
      const bool is_turned = !a_[i].by_row;
      const int64_t most = is_turned ? kMaxTurnedDepth : kMaxDepth;
      for (int64_t first = 0; first < a_[i].columns; first += most) {
        const int64_t count = std::min(most, a_[i].columns - first), depth = round_up(count, kSide);
        if (chunks.back().depth > 0 && chunks.back().depth + depth > most) chunks.emplace_back();
        Chunk& chunk = chunks.back();
        chunk.parts.push_back({&a_[i], &b_[i], first, count, chunk.depth, is_turned || count % kSide != 0});
        chunk.depth += depth;
      }
    }
    return chunks;
  }

  // Adds a chunk to the sums of the rows from `begin` to `end`, or stores them if it is the last.
  void run_chunk(const Chunk& chunk, int64_t begin, int64_t end, float* sums, bool is_first, bool is_last) {
    bool packs = false;
    for (const Part& part : chunk.parts) packs = packs || part.packs_a;
    const int64_t most = std::max<int64_t>(kPackedBytes / 2 / chunk.depth / kSide, 1) * kSide;
    const int64_t all = round_up(end - begin, kSide), rows = packs ? std::min(most, all) : all;
    static thread_local Buffer<BFloat16> packed;
    if (packs) packed.resize(rows * chunk.depth);
    for (int64_t row = begin; row < end; row += rows) {
      const int64_t count = std::min(rows, end - row);
      BFloat16* to = packed.data();
      for (const Part& part : chunk.parts) {
        if (!part.packs_a) continue;
        const int64_t sides = ceil_div(count, kSide);
        for_each(strips(*part.a, part, sides),
                 [&](int64_t strip) { pack_strip<false>(*part.a, part, strip, row, sides, chunk.depth, to); });
      }
      std::vector<Source> sources;
      for (const Part& part : chunk.parts) {
        if (part.packs_a) {
          sources.push_back({to + part.place * kSide, kSide, 2 * kTile, kTile, kSide * chunk.depth});
        } else {
          const int64_t stride = part.a->stride;
          sources.push_back({part.a->data + row * stride + part.first, stride, kSide, kLanes * stride, kSide * stride});
        }
      }
      float* its_sums = sums ? sums + (row - begin) * round_up(columns_, kSide) : nullptr;
      multiply(chunk, sources, row, count, its_sums, is_first, is_last);
    }
  }

  // A factor is brought into order in strips in which its numbers lie in memory: 32 rows, or 32 inputs of all rows.
  static int64_t strips(const Matrix& matrix, const Part& part, int64_t sides) {
    return matrix.by_row ? sides : ceil_div(part.count, kSide);
  }

  // One strip of the inputs of a part and of 32 · sides rows from `row` on.
  template <bool as_pairs>
  static void pack_strip(const Matrix& matrix, const Part& part, int64_t strip, int64_t row, int64_t sides,
                         int64_t depth, BFloat16* to) {
    const int64_t steps = ceil_div(part.count, kSide);
    for (int64_t i = 0; i < (matrix.by_row ? steps : sides); ++i) {
      const int64_t side = matrix.by_row ? strip : i, k = (matrix.by_row ? i : strip) * kSide;
      pack<as_pairs>(matrix, part, row + side * kSide, k, to + (side * depth + part.place + k) * kSide);
    }
  }

  // 32 rows from `row` on and 32 inputs from `k` on: two tiles of 16 rows, or of 16 pairs of inputs.
  template <bool as_pairs>
  static void pack(const Matrix& matrix, const Part& part, int64_t row, int64_t k, BFloat16* to) {
    for (int64_t half = 0; half < kSide; half += kLanes, to += kTile) {
      const int64_t rows = matrix.rows - row - half, columns = part.count - k;
      const int64_t first = row + half, column = part.first + k;
      Bits x[kLanes]{};
      if (rows > 0 && matrix.by_row) {
        load_rows(matrix.data + first * matrix.stride + column, matrix.stride, rows, columns, x);
      } else if (rows > 0) {
        load_pairs(matrix.data + column * matrix.stride + first, matrix.stride, columns, rows, x);
      }
      if (matrix.by_row == as_pairs) transpose(x);
      std::memcpy(to, x, sizeof(x));
    }
  }

  // 16 rows of 32 numbers, of which so many are there; the rest is zero.
  static void load_rows(const BFloat16* from, int64_t stride, int64_t rows, int64_t columns, Bits* x) {
    const size_t bytes = std::min(columns, kSide) * sizeof(BFloat16);
    if (rows >= kLanes && columns >= kSide) {
      for (int64_t i = 0; i < kLanes; ++i) std::memcpy(&x[i], from + i * stride, sizeof(Bits));
    } else {
      for (int64_t i = 0; i < std::min(rows, kLanes); ++i) std::memcpy(&x[i], from + i * stride, bytes);
    }
  }

  // 32 rows of 16 numbers: those of two rows side by side, 16 times.
  static void load_pairs(const BFloat16* from, int64_t stride, int64_t rows, int64_t columns, Bits* x) {
    const bool is_whole = rows >= kSide && columns >= kLanes;
    const size_t bytes = std::min(columns, kLanes) * sizeof(BFloat16);
    for (int64_t i = 0; i < kLanes; ++i) {
      HalfBits even{}, odd{};
      if (is_whole) {
        std::memcpy(&even, from + 2 * i * stride, sizeof(even));
        std::memcpy(&odd, from + (2 * i + 1) * stride, sizeof(odd));
      } else {
        if (2 * i < rows) std::memcpy(&even, from + 2 * i * stride, bytes);
        if (2 * i + 1 < rows) std::memcpy(&odd, from + (2 * i + 1) * stride, bytes);
      }
      x[i] = __builtin_convertvector(even, Bits) | (__builtin_convertvector(odd, Bits) << 16);
    }
  }

  // `count` rows from `row` on, of which the sources start.
  void multiply(const Chunk& chunk, const std::vector<Source>& sources, int64_t row, int64_t count, float* kept,
                bool is_first, bool is_last) {
    const int64_t panels = ceil_div(columns_, kSide), depth = chunk.depth, threads = at::get_num_threads();
    // Every thread has as much to do: where groups do not share out evenly, rows do, or there are more groups.
    const int64_t fewest = ceil_div(panels, std::max<int64_t>(kGroupBytes / 2 / depth / kSide, 1));
    const int64_t blocks = fewest % threads ? std::clamp<int64_t>(count / kMinRows, 1, threads) : 1;
    const int64_t groups = blocks > 1 ? fewest : std::min(panels, round_up(fewest, threads));
    const int64_t group = ceil_div(panels, groups), block = round_up(ceil_div(count, blocks), kSide);
    share(blocks * groups, [&](const auto& take) {
      Tiles tiles;
      alignas(64) float own[kSide * kSide];
      static thread_local Buffer<BFloat16> packed;
      packed.resize(group * kSide * depth);
      for (int64_t task; take(task);) {
        const int64_t first = task % groups * group, last = std::min(panels, first + group);
        const int64_t begin = task / groups * block, end = std::min(count, begin + block);
        for (const Part& part : chunk.parts) {
          for (int64_t strip = 0; strip < strips(*part.b, part, last - first); ++strip)
            pack_strip<true>(*part.b, part, strip, first * kSide, last - first, depth, packed.data());
        }
        for (int64_t side = begin; side < end; side += kSide) {
          const int64_t rows = std::min(kSide, end - side);
          for (int64_t panel = first; panel < last; ++panel) {
            if (side + kSide < end) fetch(sources[0], side + kSide, depth, panel - first, last - first);
            float* sums = kept ? kept + (side / kSide * panels + panel) * kSide * kSide : own;
            sum(chunk, sources, side, rows, packed.data() + (panel - first) * depth * kSide, sums, !is_first, tiles);
            if (is_last) store_sums(sums, row + side, rows, panel * kSide);
          }
        }
      }
    });
  }

  // A share of the rows that come next, from memory into the cache.
  static void fetch(const Source& source, int64_t side, int64_t depth, int64_t part, int64_t parts) {
    const int64_t lines = depth / kSide, each = ceil_div(kSide * lines, parts);
    const BFloat16* from = source.data + side / kSide * source.side;
    if (source.row == kSide) return;  // packed just now
    for (int64_t i = part * each; i < std::min(kSide * lines, (part + 1) * each); ++i)
      __builtin_prefetch(from + i / lines * source.row + i % lines * kSide, 0, 2);
  }

  // sums [rows][32] of rows from `side` on, and one panel.
  static void sum(const Chunk& chunk, const std::vector<Source>& sources, int64_t side, int64_t rows,
                  const BFloat16* panel, float* sums, bool adds, Tiles& tiles) {
    // 0 to 3: sums; 4 and 5: rows; 6 and 7: columns.
    const int first = std::min<int64_t>(rows, 16), second = std::max<int64_t>(rows - 16, 1);
    tiles.configure(
        {{{first, 64}, {first, 64}, {second, 64}, {second, 64}, {first, 64}, {second, 64}, {16, 64}, {16, 64}}});
    constexpr int64_t line = kSide * sizeof(float);
    float* lower = sums + kLanes * kSide;
    start_sums(sums, lower, line, adds);
    for (size_t i = 0; i < chunk.parts.size(); ++i) {
      const Source& source = sources[i];
      const BFloat16* x = source.data + side / kSide * source.side;
      const int64_t stride = source.row * sizeof(BFloat16);
      for (int64_t k = 0; k < chunk.parts[i].count; k += kSide, x += source.tile, panel += 2 * kTile) {
        _tile_loadd(6, panel, 64);
        _tile_loadd(7, panel + kTile, 64);
        _tile_loadd(4, x, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (rows <= kLanes) continue;
        _tile_loadd(5, x + source.half, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, sums, line);
    _tile_stored(1, sums + kLanes, line);
    if (rows > kLanes) {
      _tile_stored(2, lower, line);
      _tile_stored(3, lower + kLanes, line);
    }
    finish_writing();
  }

  void store_sums(const float* sums, int64_t row, int64_t rows, int64_t column) const {
    const int64_t width = std::min(kSide, columns_ - column);
    const bool is_whole = columns_ % kSide == 0 && reinterpret_cast<uintptr_t>(out_) % sizeof(Bits) == 0;
    for (int64_t i = 0; i < rows; ++i, sums += kSide) {
      BFloat16* to = out_ + (row + i) * columns_ + column;
      if (!is_whole) {
        for (int64_t c = 0; c < width; ++c) to[c] = sums[c] + (bias_ ? bias_[column + c] : 0);
        continue;
      }
      Floats low = load(sums), high = load(sums + kLanes);
      if (bias_) {
        low += load(bias_ + column);
        high += load(bias_ + column + kLanes);
      }
      const auto both =
          reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low)));
      if (streams_) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to), both);
      } else {
        _mm512_store_si512(reinterpret_cast<__m512i*>(to), both);
      }
    }
  }

  std::vector<Matrix> a_, b_;  // b [N, K]
  const float* bias_;
  BFloat16* out_;
  const int64_t rows_, columns_;
  const bool streams_ = rows_ * columns_ * static_cast<int64_t>(sizeof(BFloat16)) > kCachedBytes;
};

#endif

// Whether this processor can multiply matrices by tiles.
inline bool has_tiles() { return Tiles::allowed(); }

// out [M, N] = the sum of the products of the terms, and of a bias [N] if there is one.
inline void multiply_into(at::Tensor& out, const std::vector<Factors>& terms, const at::Tensor& bias = {}) {
  TORCH_CHECK(has_tiles(), "this processor has no tiles");
  TORCH_CHECK(out.is_contiguous() && out.scalar_type() == at::kBFloat16 && !terms.empty(),
              "the output of a product is in bfloat16, and its rows lie one after the other");
  for (const auto& [a, b] : terms) {
    TORCH_CHECK(a.size(0) == out.size(0) && b.size(1) == out.size(1) && a.size(1) == b.size(0) && a.numel() > 0 &&
                    b.numel() > 0,
                "factors of ", a.sizes(), " and ", b.sizes(), " in a product of ", out.sizes());
    TORCH_CHECK(a.scalar_type() == at::kBFloat16 && b.scalar_type() == at::kBFloat16, "factors are in bfloat16");
  }
  TORCH_CHECK(!bias.defined() || bias.numel() == out.size(1), "a bias of ", bias.sizes(), " for ", out.sizes());
#ifdef __AMX_BF16__
  const at::Tensor wide = bias.defined() ? bias.to(at::kFloat).contiguous() : at::Tensor();
  MatrixProduct(terms, bias.defined() ? wide.const_data_ptr<float>() : nullptr, out).run();
#endif
}

inline at::Tensor multiply(const std::vector<Factors>& terms, const at::Tensor& bias = {}) {
  at::Tensor out = at::empty({terms[0].a.size(0), terms[0].b.size(1)}, terms[0].a.options());
  multiply_into(out, terms, bias);
  return out;
}

}  // namespace bottega
