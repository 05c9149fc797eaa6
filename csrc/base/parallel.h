// Running independent pieces of work on several threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace ctcspeech {

// Calls work(index, worker) for every index in [0, count), on at most `threads` threads of which the
// caller is one; worker is in [0, threads) and tells whose scratch memory to use. Indices are handed
// out in ascending order, so put the longest piece first. `work` must not throw. Threads live for one
// call only: nothing spins afterwards, and a process forked later inherits no broken pool.
template <class Work>
void parallel_for(int64_t count, int threads, Work&& work) {
  if (threads > count) threads = static_cast<int>(count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) work(i, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  auto run = [&](int worker) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(i, worker);
  };
  std::vector<std::thread> helpers;
  helpers.reserve(threads - 1);
  for (int w = 1; w < threads; ++w) helpers.emplace_back(run, w);
  run(0);
  for (auto& helper : helpers) helper.join();
}

}  // namespace ctcspeech
