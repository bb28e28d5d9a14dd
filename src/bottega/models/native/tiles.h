// The tile registers of processors with AMX: eight matrices of at most 16 rows of 64 bytes.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#ifdef __AMX_BF16__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bottega {

struct TileShape {
  int rows, bytes;  // bytes of a row
  bool operator==(const TileShape&) const = default;
};

using TileShapes = std::array<TileShape, 8>;

#ifdef __AMX_BF16__
// Before tiles are loaded from memory that was just written: GCC does not know how much of it they read, and may leave
// out what it takes for writing in vain.
inline void finish_writing() { asm volatile("" ::: "memory"); }

// Those of one thread, which frees them at its end.
class Tiles {
 public:
  ~Tiles() {
    if (configured_) _tile_release();
  }

  void configure(const TileShapes& shapes) {
    if (configured_ && shapes == shapes_) return;
    shapes_ = shapes;
    configured_ = true;
    struct {
      uint8_t palette = 1, start = 0, reserved[14]{};
      uint16_t bytes[16]{};
      uint8_t rows[16]{};
    } config;
    for (int i = 0; i < 8; ++i) {
      config.rows[i] = static_cast<uint8_t>(shapes[i].rows);
      config.bytes[i] = static_cast<uint16_t>(shapes[i].bytes);
    }
    finish_writing();
    _tile_loadconfig(&config);
  }

  // Linux lets a process use tiles when it asks.
  static bool allowed() {
    static const bool answer = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
    return answer;
  }

 private:
  TileShapes shapes_{};
  bool configured_ = false;
};

// The sums [32, 32] in tiles 0 to 3, of which rows lie `line` bytes apart: zero, or those in memory to be added to.
inline void start_sums(const float* upper, const float* lower, int64_t line, bool adds) {
  finish_writing();
  if (!adds) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    return;
  }
  _tile_loadd(0, upper, line);
  _tile_loadd(1, upper + 16, line);
  _tile_loadd(2, lower, line);
  _tile_loadd(3, lower + 16, line);
}
#else
struct Tiles {
  static constexpr bool allowed() { return false; }
};
#endif

}  // namespace bottega
