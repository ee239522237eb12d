// The compiler makes one version of the hot loops per instruction set, and the loader picks the processor's (by feature:
// names of architectures match only the processors of one maker).
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define VOD2_MULTIVERSION __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define VOD2_MULTIVERSION
#endif
#define VOD2_INLINE inline __attribute__((always_inline))
