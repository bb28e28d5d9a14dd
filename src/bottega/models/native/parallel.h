// Work shared among the threads of torch.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

namespace bottega {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Calls work(take) on every thread; take(i) gives the next of `count` tasks until there are none. A thread that the
// system interrupts takes fewer.
template <typename Work>
void share(int64_t count, const Work& work) {
  std::atomic<int64_t> next{0};
  const auto take = [&](int64_t& task) { return (task = next.fetch_add(1, std::memory_order_relaxed)) < count; };
  const int64_t threads = std::min<int64_t>(count, at::get_num_threads());
  if (threads <= 1 || at::in_parallel_region()) return work(take);
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) { work(take); });
}

template <typename Task>
void for_each(int64_t count, const Task& run) {
  share(count, [&](const auto& take) {
    for (int64_t task; take(task);) run(task);
  });
}

// Numbers that one task of pointwise work is worth.
constexpr int64_t kTask = 32768;

// Calls run(row) for all rows of `width` numbers.
template <typename Run>
void for_rows(int64_t rows, int64_t width, const Run& run) {
  const int64_t size = std::max<int64_t>(1, kTask / width);
  for_each((rows + size - 1) / size, [&](int64_t task) {
    for (int64_t row = task * size; row < std::min(rows, (task + 1) * size); ++row) run(row);
  });
}

}  // namespace bottega
