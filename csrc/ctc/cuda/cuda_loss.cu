// The kernels of ctc/cuda/lattice.h on CUDA: what a block is there, and how kernels are launched. Compiled for
// each architecture listed in setup.py. Everything runs on the caller's stream; nothing is allocated, and
// nothing waits for the device, so a call can be captured in a CUDA graph.
#include <cuda_runtime.h>

#include "ctc/cuda/kernels.h"
#include "ctc/cuda/cuda_loss.h"

#ifndef CTC_DYNAMIC_SHARED  // tests/fuzz/cuda_on_host has another
#define CTC_DYNAMIC_SHARED(name) extern __shared__ uint4 name[]
#endif

namespace ctcspeech {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

class CudaBlock {
 public:
  __device__ int64_t index() const { return blockIdx.x; }
  __device__ int64_t count() const { return gridDim.x; }
  __device__ int threads() const { return static_cast<int>(blockDim.x); }
  __device__ char* shared() const {
    CTC_DYNAMIC_SHARED(dynamic);
    return reinterpret_cast<char*>(dynamic);
  }

  template <class F>
  __device__ void each(F f) const {
    f(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
  template <class F>
  __device__ void alone(F f) const {
    f(static_cast<int>(threadIdx.x));
  }

  template <class T>
  class Private {
   public:
    __device__ explicit Private(const CudaBlock&) {}
    __device__ T& operator()(int) { return value_; }

   private:
    T value_;
  };

  __device__ double sum(Private<double>& x) const {
    team_sum(threads(), x);
    return x(0);
  }
  __device__ void team_sum(int team, Private<double>& x) const {
    combine(team, x(0), [](double a, double b) { return a + b; });
  }
  template <class Real>
  __device__ void team_max(int team, Private<Real>& x) const {
    combine(team, x(0), [](Real a, Real b) { return a > b ? a : b; });
  }

 private:
  // A team is one warp or the whole block, of whole warps. Each step adds a pair's two values, the same
  // sum in both lanes; the warps' results are then combined by every thread in the same order.
  template <class T, class F>
  __device__ void combine(int team, T& x, F f) const {
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
      x = f(x, __shfl_xor_sync(kAllLanes, x, distance));
    if (team == kWarp) return;
    __shared__ T of_warps[kMostThreads / kWarp];
    const int warps = threads() / kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    if (threadIdx.x % kWarp == 0) of_warps[warp] = x;
    __syncthreads();
    x = of_warps[0];
    for (int i = 1; i < warps; ++i) x = f(x, of_warps[i]);
    __syncthreads();
  }
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads) run_block(const __grid_constant__ Kernel kernel) {
  CudaBlock block;
  kernel(block);
}

thread_local cudaError_t last_error = cudaSuccess;

bool fine(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error == cudaSuccess;
}

struct CudaLauncher {
  cudaStream_t stream;

  template <class Kernel>
  bool operator()(const Kernel& kernel, const Launch& launch) const {
    if (launch.shared > kSharedAlways &&
        !fine(cudaFuncSetAttribute(run_block<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(launch.shared))))
      return false;
    void* arguments[] = {const_cast<Kernel*>(&kernel)};
    return fine(cudaLaunchKernel(run_block<Kernel>, dim3(static_cast<unsigned>(launch.blocks)),
                                 dim3(static_cast<unsigned>(launch.threads)), arguments,
                                 launch.shared, stream));
  }
};

// The device asked for, as long as this lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    good_ = fine(cudaGetDevice(&before_)) && (device == before_ || fine(cudaSetDevice(device)));
    changed_ = good_ && device != before_;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  explicit operator bool() const { return good_; }

 private:
  int before_ = 0;
  bool good_, changed_;
};

// Shared memory that one block can have, less what `combine` takes. 0 on an error.
size_t shared_limit(int device) {
  constexpr int kStatic = 1024;
  int bytes = 0;
  if (!fine(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device))) return 0;
  return static_cast<size_t>(bytes - kStatic);
}

template <class Real>
ctcspeech_status loss_of(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                         const ctcspeech_ctc_where& where, size_t shared) {
  const Plan<Real> plan(in, out, where.longest_target, shared, where.workspace);
  if (!where.workspace || where.workspace_bytes < plan.workspace_bytes)
    return CTCSPEECH_SMALL_WORKSPACE;
  const CudaLauncher launcher{static_cast<cudaStream_t>(where.stream)};
  return run_kernels(in.type, plan, launcher) ? CTCSPEECH_OK : CTCSPEECH_DEVICE_ERROR;
}

}  // namespace

size_t cuda_workspace(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                      const ctcspeech_ctc_where& where) {
  const size_t shared = shared_limit(where.device_index);
  if (shared == 0) return 0;
  if (in.type == CTCSPEECH_FLOAT64)
    return Plan<double>(in, out, where.longest_target, shared, nullptr).workspace_bytes;
  return Plan<float>(in, out, where.longest_target, shared, nullptr).workspace_bytes;
}

ctcspeech_status cuda_loss(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                           const ctcspeech_ctc_where& where) {
  const OnDevice device(where.device_index);
  const size_t shared = device ? shared_limit(where.device_index) : 0;
  if (shared == 0) return CTCSPEECH_DEVICE_ERROR;
  return in.type == CTCSPEECH_FLOAT64 ? loss_of<double>(in, out, where, shared)
                                      : loss_of<float>(in, out, where, shared);
}

ctcspeech_status cuda_scale(const ctcspeech_ctc_input& in, const ctcspeech_ctc_output& out,
                            const ctcspeech_ctc_where& where, const void* factors, bool single) {
  const OnDevice device(where.device_index);
  if (!device) return CTCSPEECH_DEVICE_ERROR;
  const CudaLauncher launcher{static_cast<cudaStream_t>(where.stream)};
  return scale(in, out, factors, single, launcher) ? CTCSPEECH_OK : CTCSPEECH_DEVICE_ERROR;
}

const char* cuda_error() { return cudaGetErrorString(last_error); }

}  // namespace ctcspeech
