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

namespace vod2 {

// Whether there are 32 vector registers, those of AVX-512, or 16: what a loop may keep in them.
inline bool has_many_registers() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool found = __builtin_cpu_supports("avx512f");
  return found;
#else
  return true;  // ARM has 32
#endif
}

}  // namespace vod2
