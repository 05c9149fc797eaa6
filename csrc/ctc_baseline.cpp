// Compiled without flags: SSE2 on x86-64. On Arm the same vectors are NEON.
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "vec_portable.h"

#include "ctc_fast.h"

namespace ctcspeech {

#if defined(__aarch64__)
FastPath ctc_neon() { return make_fast_path<PortableFloat, PortableDouble>(); }
#endif

FastPath ctc_baseline() { return make_fast_path<PortableFloat, PortableDouble>(); }

}  // namespace ctcspeech
