// Running independent pieces of work on several threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>

namespace ctcspeech {

// Calls work(index, worker) for every index in [0, count), on at most `threads` threads of which the
// caller is one; worker is in [0, threads) and tells whose scratch memory to use. Indices are handed
// out in ascending order, so put the longest piece first. `work` must not throw. Threads live for one
// call only: nothing spins afterwards, and a process forked later inherits no broken pool. Where the
// system starts no more of them the work goes on with those there are. Throws nothing.
template <class Work>
void parallel_for(int64_t count, int threads, Work&& work) {
  constexpr int kMostHelpers = 255;
  if (threads > count) threads = static_cast<int>(count);
  if (threads > kMostHelpers + 1) threads = kMostHelpers + 1;
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) work(i, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  auto run = [&](int worker) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(i, worker);
  };
  std::thread helpers[kMostHelpers];
  int started = 0;
  try {
    for (; started < threads - 1; ++started) helpers[started] = std::thread(run, started + 1);
  } catch (const std::exception&) {  // no more threads, or no memory for one
  }
  run(0);
  for (int i = 0; i < started; ++i) helpers[i].join();
}

}  // namespace ctcspeech
