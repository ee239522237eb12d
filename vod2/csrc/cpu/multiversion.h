// The compiler makes one version of the hot loops per instruction set, and the loader picks the processor's: by level of
// features, as names of architectures match only the processors of one maker. Level 3 is AVX2 with FMA, 4 is AVX-512.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define VOD2_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VOD2_MULTIVERSION __attribute__((target_clones("avx512f", "fma", "default")))
#endif
#else
#define VOD2_MULTIVERSION
#endif
#define VOD2_INLINE inline __attribute__((always_inline))
