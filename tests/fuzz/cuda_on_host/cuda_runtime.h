// As much of CUDA as csrc/ctc/cuda/cuda_loss.cu uses, on the host: a real thread for each thread of a block, blocks
// one after the other. Put before the real header on the include path, it lets the kernels run where there
// is no GPU, under the thread sanitizer.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(threads)
#define __shared__ static  // blocks run one at a time
#define CTC_DYNAMIC_SHARED(name) uint4* name = fake_cuda::block->dynamic.data()

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct dim3 {
  unsigned x, y = 1, z = 1;
  dim3(unsigned x) : x(x) {}
};
using cudaStream_t = struct FakeStream*;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidDevice = 101 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };

namespace fake_cuda {

class Barrier {
 public:
  explicit Barrier(unsigned threads) { pthread_barrier_init(&barrier_, nullptr, threads); }
  ~Barrier() { pthread_barrier_destroy(&barrier_); }
  Barrier(const Barrier&) = delete;
  void wait() { pthread_barrier_wait(&barrier_); }

 private:
  pthread_barrier_t barrier_;
};

struct Block {
  Barrier all;
  std::vector<std::unique_ptr<Barrier>> warps;
  std::vector<uint64_t> lanes;  // what __shfl hands over
  std::vector<uint4> dynamic;

  Block(unsigned threads, size_t shared) : all(threads), lanes(threads), dynamic(shared / 16 + 1) {
    for (unsigned i = 0; i < threads; i += 32) warps.push_back(std::make_unique<Barrier>(32));
    std::memset(dynamic.data(), 0xff, shared);
  }
};

inline int device = 0, devices = 2;
inline int shared_optin = 100 * 1024;
inline cudaError_t last = cudaSuccess;
inline thread_local Block* block = nullptr;
template <class Kernel>
inline size_t allowed = 48 * 1024;

}  // namespace fake_cuda

inline thread_local dim3 threadIdx(0), blockIdx(0), blockDim(0), gridDim(0);

inline void __syncthreads() { fake_cuda::block->all.wait(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  const unsigned thread = threadIdx.x;
  auto& lanes = fake_cuda::block->lanes;
  auto& warp = *fake_cuda::block->warps[thread / 32];
  std::memcpy(&lanes[thread], &value, sizeof(T));
  warp.wait();
  std::memcpy(&value, &lanes[thread ^ static_cast<unsigned>(distance)], sizeof(T));
  warp.wait();
  return value;
}

inline cudaError_t cudaGetLastError() {
  const auto error = fake_cuda::last;
  fake_cuda::last = cudaSuccess;
  return error;
}
inline const char* cudaGetErrorString(cudaError_t) { return "an error"; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = fake_cuda::device;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= fake_cuda::devices) return cudaErrorInvalidDevice;
  fake_cuda::device = device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  if (device < 0 || device >= fake_cuda::devices) return cudaErrorInvalidDevice;
  *value = fake_cuda::shared_optin;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(void (*)(Kernel), cudaFuncAttribute, int bytes) {
  if (bytes > fake_cuda::shared_optin) return cudaErrorInvalidValue;
  fake_cuda::allowed<Kernel> = static_cast<size_t>(bytes);
  return cudaSuccess;
}

// Refuses what a device would: no block, too many threads, part of a warp, too much shared memory.
template <class Kernel>
cudaError_t cudaLaunchKernel(void (*function)(Kernel), dim3 blocks, dim3 threads, void** arguments,
                             size_t shared, cudaStream_t) {
  if (blocks.x == 0 || threads.x == 0 || threads.x > 1024 || threads.x % 32 ||
      shared > fake_cuda::allowed<Kernel>)
    return fake_cuda::last = cudaErrorInvalidValue;
  const Kernel& kernel = *static_cast<const Kernel*>(arguments[0]);
  fake_cuda::Block block(threads.x, shared);
  std::vector<std::thread> all;
  for (unsigned thread = 0; thread < threads.x; ++thread)
    all.emplace_back([&, thread] {
      fake_cuda::block = &block;
      threadIdx = thread, blockDim = threads, gridDim = blocks;
      for (unsigned i = 0; i < blocks.x; ++i) {
        blockIdx = i;
        function(kernel);
        block.all.wait();
      }
    });
  for (auto& thread : all) thread.join();
  return cudaSuccess;
}
