// Words of the compilers.
#pragma once

// CTC_UNROLL before a loop, CTC_INLINE and CTC_APART (not inlined) before a function: as it says.
#if defined(__CUDACC__)
#define CTC_UNROLL _Pragma("unroll")
#elif defined(__clang__)
#define CTC_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define CTC_UNROLL _Pragma("GCC unroll 16")
#else
#define CTC_UNROLL
#endif
#if defined(__GNUC__)
#define CTC_INLINE __attribute__((always_inline)) inline
#define CTC_APART __attribute__((noinline))
#else
#define CTC_INLINE inline
#define CTC_APART
#endif

// CTC_SHARED: for the CPU and the GPU. CTC_DEVICE: part of a kernel, which CUDA runs on the device and
// the tests, in plain C++, on the host.
#ifdef __CUDACC__
#define CTC_SHARED __host__ __device__ inline
#define CTC_DEVICE __device__ inline
#else
#define CTC_SHARED inline
#define CTC_DEVICE inline
#endif
