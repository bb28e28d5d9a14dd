// Products of blocks of 32 rows with panels of 32 columns, the parts of attention in training.
//
// TileBlocks computes on numbers in bfloat16 with the tiles of AMX, VectorBlocks in float32 on any processor. Both have
// the same functions; all sizes are multiples of 32, filled up with zeros.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tiles.h"
#include "vectors.h"

namespace bottega {

constexpr int64_t kSide = 32;

// Memory that starts at a line of the cache; what it holds is lost when it grows.
template <typename T>
class Buffer {
 public:
  void resize(int64_t count) {
    if (memory_.size() >= count * sizeof(T) + kLine) return;
    memory_ = std::vector<char>(count * sizeof(T) + kLine);
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    data_ = reinterpret_cast<T*>((address + kLine - 1) / kLine * kLine);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }

 private:
  static constexpr int64_t kLine = 64;
  std::vector<char> memory_;
  T* data_ = nullptr;
};

// The rows [32, width] of a block, turned: [width, 32].
inline void transpose_block(const float* from, int64_t width, float* to) {
  for (int64_t row = 0; row < kSide; row += kLanes) {
    for (int64_t column = 0; column < width; column += kLanes) {
      Floats x[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) x[i] = load(from + (row + i) * width + column);
      transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(to + (column + i) * kSide + row, x[i]);
    }
  }
}

class VectorBlocks {
 public:
  using Number = float;

  // The panel of x Rᵀ, from the rows R [32, depth].
  static void panel_of_rows(const float* rows, int64_t depth, float* panel) {
    transpose_block(rows, depth, panel);
  }

  // The panel of x M, from 32 columns of M [depth, stride].
  static void panel_of_columns(const float* columns, int64_t stride, int64_t depth, float* panel) {
    for (int64_t k = 0; k < depth; ++k) std::copy_n(columns + k * stride, kSide, panel + k * kSide);
  }

  // sums [32, 32] = x [32, depth] times a panel, or that added to them. Rows of x lie `stride` apart, and those of the
  // sums `width`.
  void multiply(const float* x, int64_t stride, int64_t depth, const float* panel, float* sums, int64_t width,
                bool adds) {
    for (int64_t row = 0; row < kSide; row += kRegisterRows) {
      Register total[kRegisterRows][kRegisters]{};
      if (adds) {
        for (int r = 0; r < kRegisterRows; ++r) {
          for (int c = 0; c < kRegisters; ++c)
            total[r][c] = loaded<Register>(sums + (row + r) * width + c * kRegisterLanes);
        }
      }
      for (int64_t k = 0; k < depth; ++k) {
#pragma GCC unroll 8
        for (int r = 0; r < kRegisterRows; ++r) {
          const Register factor = x[(row + r) * stride + k] - Register{};  // see `broadcast`
#pragma GCC unroll 8
          for (int c = 0; c < kRegisters; ++c)
            total[r][c] += factor * loaded<Register>(panel + k * kSide + c * kRegisterLanes);
        }
      }
      for (int r = 0; r < kRegisterRows; ++r) {
        for (int c = 0; c < kRegisters; ++c) stored(sums + (row + r) * width + c * kRegisterLanes, total[r][c]);
      }
    }
  }

 private:
  using Register = RegisterOf<float>::type;
  static constexpr int kRegisters = kSide / kRegisterLanes;  // of the columns
};

#ifdef __AMX_BF16__
class TileBlocks {
 public:
  using Number = BFloat16;

  static void panel_of_rows(const BFloat16* rows, int64_t depth, BFloat16* panel) {
    for (int64_t k = 0; k < depth; k += kSide) {
      for (int64_t half = 0; half < kSide; half += kLanes, panel += kTile) {
        Bits x[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) std::memcpy(&x[i], rows + (half + i) * depth + k, sizeof(Bits));
        transpose(x);
        std::memcpy(panel, x, sizeof(x));
      }
    }
  }

  static void panel_of_columns(const BFloat16* columns, int64_t stride, int64_t depth, BFloat16* panel) {
    for (int64_t k = 0; k < depth; k += kSide) {
      for (int64_t half = 0; half < kSide; half += kLanes) {
        for (int64_t i = 0; i < kSide; i += 2, panel += kSide) {
          HalfBits even, odd;
          std::memcpy(&even, columns + (k + i) * stride + half, sizeof(even));
          std::memcpy(&odd, columns + (k + i + 1) * stride + half, sizeof(odd));
          const Bits pairs = __builtin_convertvector(even, Bits) | (__builtin_convertvector(odd, Bits) << 16);
          std::memcpy(panel, &pairs, sizeof(pairs));
        }
      }
    }
  }

  void multiply(const BFloat16* x, int64_t stride, int64_t depth, const BFloat16* panel, float* sums, int64_t width,
                bool adds) {
    // 0 to 3: sums; 4 and 5: rows; 6 and 7: columns.
    tiles_.configure({{{16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}, {16, 64}}});
    float* lower = sums + kLanes * width;
    const int64_t line = width * sizeof(float), bytes = stride * sizeof(BFloat16);
    start_sums(sums, lower, line, adds);
    for (int64_t k = 0; k < depth; k += kSide, panel += 2 * kTile) {
      _tile_loadd(6, panel, 64);
      _tile_loadd(7, panel + kTile, 64);
      _tile_loadd(4, x + k, bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, x + kLanes * stride + k, bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, line);
    _tile_stored(1, sums + kLanes, line);
    _tile_stored(2, lower, line);
    _tile_stored(3, lower + kLanes, line);
    finish_writing();
  }

 private:
  static constexpr int64_t kTile = 512;  // numbers
  Tiles tiles_;
};
#endif

}  // namespace bottega
