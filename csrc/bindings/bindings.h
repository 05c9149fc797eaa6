// The Python face of the core, one bind function for each part. Only bindings*.cpp include this.
#pragma once

#include <nanobind/nanobind.h>

namespace ctcspeech {

void bind_align(nanobind::module_& m);  // bindings/align.cpp
void bind_beam(nanobind::module_& m);   // bindings/beam.cpp
void bind_cpu(nanobind::module_& m);    // bindings/module.cpp
void bind_gru(nanobind::module_& m);    // bindings/gru.cpp
void bind_ngram(nanobind::module_& m);  // bindings/ngram.cpp
void bind_neural(nanobind::module_& m);  // bindings/neural.cpp
void bind_ctc(nanobind::module_& m);    // bindings/ctc.cpp
void bind_ctc_cuda(nanobind::module_& m);  // bindings/ctc_cuda.cpp
void bind_ngram_estimate(nanobind::module_& m);  // bindings/ngram_estimate.cpp

}  // namespace ctcspeech
