// Compiled without flags: SSE2 on x86-64.
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "base/vec_portable.h"

#include "ctc/cpu/fast_loss.h"

namespace ctcspeech {

FastPath ctc_baseline() { return make_fast_path<PortableFloat, PortableDouble>(); }

}  // namespace ctcspeech
