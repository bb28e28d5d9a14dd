// Dropout (Srivastava et al. 2014) without a mask: a number is kept or not by a hash of its place, which a backward
// finds again.
#pragma once

#include <cstdint>

#include "vectors.h"

namespace bottega {

class Dropout {
 public:
  // Of 65,536 numbers `dropped` are dropped, on average; none: 0.
  Dropout(int64_t seed, int64_t dropped)
      : seed_(seed), dropped_(static_cast<int32_t>(dropped)), scale_(65536.0f / (65536 - dropped)) {}

  bool drops() const { return dropped_ != 0; }

  // The numbers of one line.
  class Line {
   public:
    Line(const Dropout& dropout, int64_t line) : dropout_(dropout) {
      // The mixing function of SplitMix64 (Steele et al. 2014), of the seed and the line.
      uint64_t x = dropout.seed_ + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(line + 1);
      x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
      x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
      x ^= x >> 31;
      low_ = static_cast<uint32_t>(x);
      high_ = static_cast<uint32_t>(x >> 32);
    }

    // Sixteen numbers from `column` on, scaled where they are kept, 0 elsewhere.
    Floats keep(Floats x, int64_t column) const {
      if (!dropout_.drops()) return x;
      // Mixed as in a hash of 32 bits, with one half of the line's number before and the other in between.
      Bits bits = bits_as<Bits>(count_from(0)) + (static_cast<uint32_t>(column) + low_);
      bits = (bits ^ (bits >> 16)) * 0x7feb352du;
      bits = ((bits ^ high_) ^ (bits >> 15)) * 0x846ca68bu;
      const Ints level = bits_as<Ints>((bits ^ (bits >> 16)) & 0xffffu);
      return select(level >= dropout_.dropped_, x * dropout_.scale_, Floats{});
    }

   private:
    const Dropout& dropout_;
    uint32_t low_, high_;
  };

 private:
  uint64_t seed_;
  int32_t dropped_;
  float scale_;
};

}  // namespace bottega
