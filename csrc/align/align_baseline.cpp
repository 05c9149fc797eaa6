// Compiled without flags: SSE2 on x86-64.
#include "base/vec_portable.h"

#include "align/align_step.h"

namespace ctcspeech {

AlignTable align_baseline() { return make_align_table<PortableFloat, PortableDouble>(); }

}  // namespace ctcspeech
