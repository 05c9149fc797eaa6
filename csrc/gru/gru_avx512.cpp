#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "base/vec_avx512.h"

#include "gru/gru_kernel.h"

namespace ctcspeech {

GruKernels gru_avx512() { return make_gru_kernels<Avx512Float, 8>(); }

}  // namespace ctcspeech
